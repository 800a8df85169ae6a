/* The assumptions probe: which of the design's assumptions hold on the driver of this machine?
 *
 * Each check runs in a process of its own (this program again, with --check), so that a crash, a lost
 * context or a hang of one says nothing about the others. This process never touches the driver; it
 * collects what checks say and writes the report in Markdown.
 *
 * usage: probe REPORT | probe --check NAME */
#include "probe.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct check checks[] = {
    {"device", "Device and driver", check_device, 120},
    {"shared-memory", "Shared host memory", check_shared_memory, 180},
    {"bandwidth", "Bandwidth of shared host memory", check_bandwidth, 300},
    {"polling", "Kernel and CPU", check_polling, 180},
    {"mirror", "Device addresses", check_mirror, 120},
    {"stale-memory", "Memory of a process that ended", check_stale_memory, 180},
    {"parameters", "Parameter layouts", check_parameters, 120},
    {"resolver", "Resolver", check_resolver, 120},
    {"tables", "Private tables", check_tables, 120},
    {"table-identity", "Private table 21318c60, slot 4", check_table_identity, 120},
    {"table-slot-39", "Private table 21318c60, slot 39", check_table_slot_39, 120},
    {"table-slot-51", "Private table 21318c60, slot 51", check_table_slot_51, 120},
    {"context", "Contexts", check_context, 300},
    {"errors", "Errors at once", check_errors, 120},
    {"sticky", "Errors that stay", check_sticky, 120},
    {"depth", "Launches that may be pending", check_depth, 180},
    {"costs", "Native cost of calls", check_costs, 300},
    {"copies", "Native cost of copies", check_copies, 300},
};
static const size_t check_count = sizeof checks / sizeof checks[0];

/* What one check said. */
struct said {
    char *text;
    size_t length;
    int status; /* as from waitpid; -1: hung and killed */
};

static void collect(const struct check *check, struct said *said) {
    int out[2];
    if (pipe(out)) {
        perror("pipe");
        exit(1);
    }
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(1);
    }
    if (pid == 0) {
        setpgid(0, 0);
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        close(out[1]);
        execl("/proc/self/exe", "probe", "--check", check->name, (char *)NULL);
        _exit(127);
    }
    setpgid(pid, pid);
    close(out[1]);
    uint64_t deadline = now() + check->seconds * 1000000000ull;
    bool hung = false;
    for (;;) {
        uint64_t time = now();
        if (time >= deadline) {
            hung = true;
            break;
        }
        struct pollfd wait = {.fd = out[0], .events = POLLIN};
        int ready = poll(&wait, 1, (int)((deadline - time) / 1000000) + 1);
        if (ready <= 0) {
            continue;
        }
        char buffer[4096];
        ssize_t got = read(out[0], buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        said->text = realloc(said->text, said->length + (size_t)got + 1);
        memcpy(said->text + said->length, buffer, (size_t)got);
        said->length += (size_t)got;
        said->text[said->length] = 0;
    }
    kill(-pid, SIGKILL);
    close(out[0]);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    /* A check that closed its output has ended or is about to; the kill above only meets its children. */
    said->status = hung ? -1 : status;
}

/* Splits a line at tabs, in place. */
static size_t split(char *line, char **fields, size_t limit) {
    size_t count = 0;
    for (char *field = line; field && count < limit; count++) {
        fields[count] = field;
        char *tab = strchr(field, '\t');
        if (tab) {
            *tab++ = 0;
        }
        field = tab;
    }
    return count;
}

static unsigned tally[3];
static const char *const verdict_names[] = {"HOLDS", "DOES NOT HOLD", "NOT TESTABLE HERE"};

static void write_kind(FILE *report, const struct said *said, const char *kind, const char *heading) {
    bool first = true;
    char *copy = strdup(said->text ? said->text : "");
    char *state = NULL;
    for (char *line = strtok_r(copy, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
        char *fields[5];
        size_t count = split(line, fields, 5);
        if (strcmp(fields[0], kind)) {
            continue;
        }
        if (first) {
            fprintf(report, "%s", heading);
            first = false;
        }
        if (!strcmp(kind, "assume") && count == 5) {
            int verdict = atoi(fields[1]);
            tally[verdict]++;
            fprintf(report, "| %s | %s | **%s** | %s |\n", fields[3], fields[2], verdict_names[verdict], fields[4]);
            printf("  %-17s  %s\n", verdict_names[verdict], fields[3]);
        } else if (!strcmp(kind, "number") && count == 4) {
            fprintf(report, "| %s | %s | %s |\n", fields[1], fields[2], fields[3]);
        } else if (!strcmp(kind, "fact") && count == 3) {
            fprintf(report, "| %s | %s |\n", fields[1], fields[2]);
        }
    }
    if (!first) {
        fprintf(report, "\n");
    }
    free(copy);
}

static void write_section(FILE *report, const struct check *check, const struct said *said) {
    fprintf(report, "## %s\n\n", check->title);
    write_kind(report, said, "assume", "| assumption | decision | verdict | evidence |\n|---|---|---|---|\n");
    write_kind(report, said, "number", "| measured | value | unit |\n|---|---:|---|\n");
    write_kind(report, said, "fact", "| seen | |\n|---|---|\n");
    if (said->status == -1) {
        tally[FAILS]++;
        fprintf(report, "**The check hung**: killed after %u s. What it said before stands above.\n\n", check->seconds);
        printf("  HUNG               %s\n", check->title);
    } else if (WIFSIGNALED(said->status)) {
        tally[FAILS]++;
        fprintf(report, "**The check was ended by signal %d** (%s). What it said before stands above.\n\n",
                WTERMSIG(said->status), strsignal(WTERMSIG(said->status)));
        printf("  CRASHED            %s (signal %d)\n", check->title, WTERMSIG(said->status));
    } else if (WEXITSTATUS(said->status)) {
        tally[FAILS]++;
        fprintf(report, "**The check ended with code %d.**\n\n", WEXITSTATUS(said->status));
        printf("  FAILED             %s (code %d)\n", check->title, WEXITSTATUS(said->status));
    }
}

static int run_check(const char *name) {
    const char *error = load_driver();
    if (error) {
        fprintf(stderr, "probe: no driver: %s\n", error);
        return 3;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < check_count; i++) {
        if (!strcmp(checks[i].name, name)) {
            checks[i].run();
            fflush(stdout);
            /* No destructors: what a driver does at exit is not part of the check. */
            _exit(0);
        }
    }
    fprintf(stderr, "probe: no check is called %s\n", name);
    return 2;
}

int main(int count, char **arguments) {
    if (count == 3 && !strcmp(arguments[1], "--check")) {
        return run_check(arguments[2]);
    }
    if (count != 2 || arguments[1][0] == '-') {
        fprintf(stderr, "usage: %s REPORT\n       %s --check NAME\n", arguments[0], arguments[0]);
        return 2;
    }
    FILE *report = fopen(arguments[1], "w");
    if (!report) {
        perror(arguments[1]);
        return 1;
    }
    struct utsname machine;
    uname(&machine);
    char date[32];
    time_t seconds = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&seconds));
    const char *library = getenv("PROBE_LIBRARY");
    fprintf(report, "# Assumptions of the design on this driver\n\n");
    fprintf(report, "%s, Linux %s %s, %ld CPUs, driver library `%s`. Made by `make device-check PART=0`\n", date,
            machine.release, machine.machine, sysconf(_SC_NPROCESSORS_ONLN),
            library && *library ? strrchr(library, '/') ? strrchr(library, '/') + 1 : library : "libcuda.so.1");
    fprintf(report, "(`tests/device-check`), which says how each number came about. Decisions are those of the\n");
    fprintf(report, "architecture. Times are medians of one run.\n\n");
    for (size_t i = 0; i < check_count; i++) {
        struct said said = {0};
        printf("%s\n", checks[i].title);
        fflush(stdout);
        collect(&checks[i], &said);
        write_section(report, &checks[i], &said);
        fflush(report);
        bool unusable = i == 0 && (said.status == -1 || !WIFEXITED(said.status) || WEXITSTATUS(said.status));
        free(said.text);
        if (unusable) {
            fclose(report);
            fprintf(stderr, "probe: the driver cannot be used; see above\n");
            return 1;
        }
    }
    fprintf(report, "## Sum\n\n%u assumptions hold, %u do not, %u cannot be tested here.\n", tally[HOLDS],
            tally[FAILS], tally[UNTESTABLE]);
    if (fclose(report)) {
        perror(arguments[1]);
        return 1;
    }
    printf("device-check: %u hold, %u do not, %u cannot be tested here; report in %s\n", tally[HOLDS], tally[FAILS],
           tally[UNTESTABLE], arguments[1]);
    return 0;
}
