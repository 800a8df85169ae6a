/* What a check says, and the tools that checks share. */
#ifndef PROBE_H
#define PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driver.h"

/* --- What a check says. Each is one line to the parent, which writes the report. */

enum verdict { HOLDS, FAILS, UNTESTABLE };

/* An assumption of the design (a decision's number and the sentence) and whether it holds. */
void assume(enum verdict verdict, const char *decision, const char *statement, const char *evidence, ...)
    __attribute__((format(printf, 4, 5)));

/* A measured number. */
void number(const char *name, double value, const char *unit);

/* Something worth knowing that no decision rests on. */
void fact(const char *name, const char *text, ...) __attribute__((format(printf, 2, 3)));

/* Ends the check: something it stands on is missing. */
void give_up(const char *decision, const char *statement, const char *reason, ...)
    __attribute__((format(printf, 3, 4), noreturn));

/* --- Tools */

/* cuInit, the first device and its primary context, current. Gives up if one of them fails. */
CUcontext start(void);
CUfunction find_kernel(const char *name);
CUresult launch(CUfunction function, CUstream stream, void **parameters);

uint64_t now(void); /* nanoseconds */
double median(double *values, size_t count);
double percentile(double *values, size_t count, double share);

/* A sealed memfd of that size. */
int sealed_memory(size_t bytes);

/* Where both sides try to put their shared window, first choice first. */
extern const uint64_t window_candidates[];
extern const size_t window_candidate_count;

/* Maps `fd` (or reserves, with -1) at exactly `address`; NULL if something is there. */
void *map_at(uint64_t address, size_t bytes, int fd);

/* --- Checks, each run in a process of its own */

struct check {
    const char *name;
    const char *title;
    void (*run)(void);
    unsigned seconds; /* after which it counts as hung */
};

void check_device(void);
void check_shared_memory(void);
void check_bandwidth(void);
void check_polling(void);
void check_mirror(void);
void check_stale_memory(void);
void check_parameters(void);
void check_resolver(void);
void check_tables(void);
void check_table_identity(void);
void check_table_slot_39(void);
void check_table_slot_51(void);
void check_context(void);
void check_errors(void);
void check_sticky(void);
void check_depth(void);
void check_costs(void);
void check_copies(void);

#endif
