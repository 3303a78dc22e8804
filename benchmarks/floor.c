/* What the machine needs for the drivers: start all of them at once, read what they say, wait for their ends.
 *
 *     floor PYTHONPATH adjust.d/01one adjust.d/02two ...
 *
 * Each is run as `DRIVER --query app`, with an empty stdin, two pipes, a session of its own and the variables
 * that docs/SPEC.md, section 3, prescribes, as the aggregator's drivers are. What they say is read and dropped;
 * nothing more is done. Exits 1 when a driver could not be started or failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void or_die(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "floor: %s: %s\n", what, strerror(error));
        exit(1);
    }
}

int main(int argc, char **argv)
{
    int count = argc - 2, open_pipes = 2 * count, failed = 0;
    pid_t *pids = calloc(count + 1, sizeof *pids);
    struct pollfd *pipes = calloc(2 * count + 1, sizeof *pipes);
    posix_spawnattr_t attributes;

    or_die(argc < 2 ? EINVAL : 0, "arguments");
    or_die(setenv("PYTHONPATH", argv[1], 1) || setenv("PYTHONUNBUFFERED", "1", 1) ? errno : 0, "environment");
    or_die(posix_spawnattr_init(&attributes), "attributes");
    or_die(posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID), "session");
    for (int i = 0; i < count; i++) {
        char *words[] = {argv[i + 2], "--query", "app", NULL};
        posix_spawn_file_actions_t actions;
        or_die(posix_spawn_file_actions_init(&actions), "actions");
        or_die(posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0), "stdin");
        int theirs[2];
        for (int stream = 0; stream < 2; stream++) {
            int ends[2];
            or_die(pipe2(ends, O_CLOEXEC) ? errno : 0, "pipe");
            pipes[2 * i + stream] = (struct pollfd){.fd = ends[0], .events = POLLIN};
            theirs[stream] = ends[1];
            or_die(posix_spawn_file_actions_adddup2(&actions, ends[1], stream + 1), "output");
        }
        or_die(posix_spawn(&pids[i], words[0], &actions, &attributes, words, environ), words[0]);
        posix_spawn_file_actions_destroy(&actions);
        close(theirs[0]);
        close(theirs[1]);
    }
    while (open_pipes > 0) {
        static char block[65536];
        if (poll(pipes, 2 * count, -1) < 0)
            or_die(errno, "poll");
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
