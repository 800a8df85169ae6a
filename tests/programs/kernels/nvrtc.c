// nvrtc LIBRARY SOURCE PTX [OPTION...]: compiles a CUDA C file with NVIDIA's run-time compiler.
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static void *library;

static void *symbol(const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "nvrtc: %s\n", dlerror());
        exit(1);
    }
    return found;
}

static char *contents(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);
    if (!file || !text || fread(text, 1, (1 << 20) - 1, file) == 0) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return text;
}

int main(int count, char **words) {
    if (count < 4) {
        fprintf(stderr, "usage: nvrtc LIBRARY SOURCE PTX [OPTION...]\n");
        return 2;
    }
    library = dlopen(words[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "nvrtc: %s\n", dlerror());
        return 1;
    }
    int (*create)(void **, const char *, const char *, int, const char *const *, const char *const *) =
        symbol("nvrtcCreateProgram");
    int (*compile)(void *, int, char **) = symbol("nvrtcCompileProgram");
    int (*log_size)(void *, size_t *) = symbol("nvrtcGetProgramLogSize");
    int (*log_text)(void *, char *) = symbol("nvrtcGetProgramLog");
    int (*ptx_size)(void *, size_t *) = symbol("nvrtcGetPTXSize");
    int (*ptx_text)(void *, char *) = symbol("nvrtcGetPTX");

    void *program;
    int status = create(&program, contents(words[2]), words[2], 0, NULL, NULL);
    if (status == 0) {
        status = compile(program, count - 4, words + 4);
        size_t size = 0;
        log_size(program, &size);
        char *text = calloc(1, size + 1);
        log_text(program, text);
        fputs(text, stderr);
    }
    size_t size = 0;
    if (status == 0) {
        status = ptx_size(program, &size);
    }
    if (status != 0) {
        fprintf(stderr, "nvrtc: error %d\n", status);
        return 1;
    }
    char *ptx = malloc(size);
    ptx_text(program, ptx);
    FILE *file = fopen(words[3], "wb");
    if (!file || fwrite(ptx, 1, size - 1, file) != size - 1 || fclose(file) != 0) {
        perror(words[3]);
        return 1;
    }
    return 0;
}
