/* Start programs with as little overhead as possible, for comparison with servo-agg and for its peak memory.
 *
 *     baseline drivers PYTHONPATH DRIVER ...
 *         Start all drivers at once as `DRIVER --query app`, read their output and discard it, wait for their exits.
 *         Each has an empty stdin, two pipes, its own session and the variables of docs/SPEC.md, rule 3.8.
 *         Exit with 1 if a driver could not be started or failed.
 *
 *     baseline peak COMMAND ARGUMENT ...
 *         Run the command, then print its peak resident memory in KiB. Exit with 1 if it failed.
 *         Linux counts the memory of the process that starts a program towards the peak of that program,
 *         so a large process such as a Python interpreter cannot measure a small one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void exit_on_error(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "baseline: %s: %s\n", what, strerror(error));
        exit(1);
    }
}

static int run_drivers(const char *python_path, int count, char **drivers)
{
    int open_pipes = 2 * count, failed = 0;
    pid_t *pids = calloc(count + 1, sizeof *pids);
    struct pollfd *pipes = calloc(2 * count + 1, sizeof *pipes);
    posix_spawnattr_t attributes;

    exit_on_error(setenv("PYTHONPATH", python_path, 1) || setenv("PYTHONUNBUFFERED", "1", 1) ? errno : 0, "setenv");
    exit_on_error(posix_spawnattr_init(&attributes), "posix_spawnattr_init");
    exit_on_error(posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID), "posix_spawnattr_setflags");
    for (int i = 0; i < count; i++) {
        char *arguments[] = {drivers[i], "--query", "app", NULL};
        int write_ends[2];
        posix_spawn_file_actions_t actions;
        exit_on_error(posix_spawn_file_actions_init(&actions), "posix_spawn_file_actions_init");
        exit_on_error(posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0), "stdin");
        for (int stream = 0; stream < 2; stream++) {
            int ends[2];
            exit_on_error(pipe2(ends, O_CLOEXEC) ? errno : 0, "pipe2");
            pipes[2 * i + stream] = (struct pollfd){.fd = ends[0], .events = POLLIN};
            write_ends[stream] = ends[1];
            exit_on_error(posix_spawn_file_actions_adddup2(&actions, ends[1], stream + 1), "stdout, stderr");
        }
        exit_on_error(posix_spawn(&pids[i], drivers[i], &actions, &attributes, arguments, environ), drivers[i]);
        posix_spawn_file_actions_destroy(&actions);
        close(write_ends[0]);
        close(write_ends[1]);
    }
    while (open_pipes > 0) {
        static char block[65536];
        exit_on_error(poll(pipes, 2 * count, -1) < 0 ? errno : 0, "poll");
        for (int i = 0; i < 2 * count; i++)
            if (pipes[i].fd >= 0 && pipes[i].revents && read(pipes[i].fd, block, sizeof block) <= 0) {
                close(pipes[i].fd);
                pipes[i].fd = -1;
                open_pipes--;
            }
    }
    for (int i = 0; i < count; i++) {
        int status;
        if (waitpid(pids[i], &status, 0) < 0 || status != 0)
            failed = 1;
    }
    return failed;
}

static int print_peak(char **command)
{
    pid_t pid;
    int status;
    struct rusage usage;

    exit_on_error(posix_spawnp(&pid, command[0], NULL, NULL, command, environ), command[0]);
    exit_on_error(wait4(pid, &status, 0, &usage) < 0 ? errno : 0, "wait4");
    printf("%ld\n", usage.ru_maxrss);
    return status != 0;
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "drivers") == 0)
        return run_drivers(argv[2], argc - 3, argv + 3);
    if (argc >= 3 && strcmp(argv[1], "peak") == 0)
        return print_peak(argv + 2);
    exit_on_error(EINVAL, "arguments");
}
