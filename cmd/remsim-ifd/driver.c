/* SPDX-License-Identifier: GPL-2.0-or-later */

//go:build cgo

#include <signal.h>
#include <stddef.h>
#include <stdio.h>

#include "driver.h"

/*
 * A write to a connection whose other end has gone must not kill pcscd. Go's runtime handles SIGPIPE, but on
 * threads that are not its own only as the program that has loaded it did: so the signal is
 * ignored, unless that program has said what is to become of it. The number has this run before the
 * runtime looks, which it does in a constructor without one.
 */
__attribute__((constructor(101))) static void ignore_sigpipe(void)
{
	struct sigaction now;

	if (sigaction(SIGPIPE, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
}

/*
 * Go's code may run on a stack that is too small for a handler, so those must run on the thread's own stack for
 * signals. The runtime sees to that when it is loaded; pcscd sets that of SIGUSR1 later.
 */
void remsim_keep_handlers_off_stacks(void)
{
	struct sigaction now;

	for (int s = 1; s <= SIGRTMAX; s++) {
		if (sigaction(s, NULL, &now) != 0 || now.sa_flags & SA_ONSTACK ||
		    (!(now.sa_flags & SA_SIGINFO) && (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN)))
			continue;
		now.sa_flags |= SA_ONSTACK;
		sigaction(s, &now, NULL);
	}
}

void *remsim_poll_function(void)
{
	return (void *)remsim_poll;
}

void *remsim_stop_function(void)
{
	return (void *)remsim_stop_poll;
}

/* pcscd exports this; other programs that load the driver need not. */
extern void log_msg(const int priority, const char *format, ...) __attribute__((weak, format(printf, 2, 3)));

void remsim_log(int priority, const char *line)
{
	if (log_msg != NULL)
		log_msg(priority, "%s", line);
	else
		fprintf(stderr, "%s\n", line);
}
