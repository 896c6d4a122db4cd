/*
 * spawn.c
 *		Forks a server process and executes the gateway, with pipes between them.
 *
 * The child closes all files of the server process, resets its signal handlers
 * and limits its own address space before it executes the program.
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include "broker/spawn.h"

#define PIPE_SIZE (1024 * 1024)

/*
 * In the child, between fork and exec: calls only what is safe in a forked copy
 * of a backend.  Never returns.
 */
static void
run_program(const char *path, int in, int out, pid_t parent)
{
	char *const arguments[] = {"mill_gateway", NULL};
	char *const environment[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", NULL};
	struct rlimit limit;
	sigset_t none;
	int null;
	int score;

#ifdef __linux__
	/* the parent may have died before prctl */
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent)
		_exit(1);
#endif
	setpgid(0, 0);
	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);

	/* first move the pipes away from descriptors 0 to 2 */
	in = fcntl(in, F_DUPFD, 3);
	out = fcntl(out, F_DUPFD, 3);
	null = open("/dev/null", O_WRONLY);
	if (in < 0 || out < 0 || null < 0 || dup2(in, STDIN_FILENO) < 0 ||
		dup2(out, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0)
		_exit(1);

	/* when the machine is out of memory the kernel should kill this process first */
	score = open("/proc/self/oom_score_adj", O_WRONLY);
	if (score >= 0 && write(score, "500", 3) < 0)
		(void) score; /* it may not be allowed */

#if defined(__linux__) && defined(SYS_close_range)
	if (syscall(SYS_close_range, 3, ~0U, 0) < 0)
#endif
	{
		long most = sysconf(_SC_OPEN_MAX);

		for (int i = 3; i < (most > 0 ? most : 1024); i++)
			close(i);
	}

	limit.rlim_cur = limit.rlim_max = MILL_GATEWAY_SPACE;
	setrlimit(RLIMIT_AS, &limit);
	limit.rlim_cur = limit.rlim_max = 0; /* a core file would contain passwords */
	setrlimit(RLIMIT_CORE, &limit);
	if (chdir("/") < 0)
		_exit(1);
	execve(path, arguments, environment);
	_exit(127);
}

/* Close both ends of a pipe; -1 is no end. */
static void
close_pipe(int *ends)
{
	for (int i = 0; i < 2; i++)
	{
		if (ends[i] >= 0)
			close(ends[i]);
		ends[i] = -1;
	}
}

/* Create two pipes, to the gateway and from it. */
static bool
open_pipes(int *to, int *from)
{
	to[0] = to[1] = from[0] = from[1] = -1;
	if (pipe(to) < 0 || pipe(from) < 0)
		return false;
	for (int i = 0; i < 2; i++)
	{
		fcntl(to[i], F_SETFD, FD_CLOEXEC);
		fcntl(from[i], F_SETFD, FD_CLOEXEC);
	}
#ifdef F_SETPIPE_SZ
	/* a larger pipe lets the gateway read ahead; not all systems allow it */
	(void) fcntl(from[0], F_SETPIPE_SZ, PIPE_SIZE);
#endif
	return fcntl(to[1], F_SETFL, O_NONBLOCK) == 0 && fcntl(from[0], F_SETFL, O_NONBLOCK) == 0;
}

/*
 * All signals are blocked around fork, so that none of our handlers runs in the
 * child.
 */
pid_t
mill_gateway_spawn(const char *path, int *to_gateway, int *from_gateway)
{
	int to[2];
	int from[2];
	pid_t parent = getpid();
	pid_t pid;
	sigset_t all;
	sigset_t before;
	int saved;

	if (!open_pipes(to, from))
		pid = -1;
	else
	{
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, &before);
		fflush(NULL);
		pid = fork();
		if (pid == 0)
			run_program(path, to[0], from[1], parent);
		saved = errno;
		sigprocmask(SIG_SETMASK, &before, NULL);
		errno = saved;
	}
	if (pid < 0)
	{
		saved = errno;
		close_pipe(to);
		close_pipe(from);
		errno = saved;
		return -1;
	}
	close(to[0]);
	close(from[1]);
	*to_gateway = to[1];
	*from_gateway = from[0];
	return pid;
}
