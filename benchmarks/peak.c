/* The peak memory of a command: run it, then print a line with the KiB that it had resident at most.
 *
 *     peak COMMAND ARGUMENT ...
 *
 * Linux counts the memory of whoever starts a program to that program's peak. So it has to be started by
 * something that is small itself: this, not the benchmark. Exits as the command does.
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

extern char **environ;

int main(int argc, char **argv)
{
    pid_t pid;
    int status, error;
    struct rusage usage;

    if (argc < 2)
        return 2;
    error = posix_spawnp(&pid, argv[1], NULL, NULL, argv + 1, environ);
    if (error) {
        fprintf(stderr, "peak: %s: %s\n", argv[1], strerror(error));
        return 1;
    }
    if (wait4(pid, &status, 0, &usage) < 0)
        return 1;
    printf("%ld\n", usage.ru_maxrss);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
