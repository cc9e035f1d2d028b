/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A host for the driver, in pcscd's place, that does what pcscd and others do to a process and checks what the
 * driver does to it:
 *
 *   harness LIBRARY SCENARIO DEVICENAME
 *
 * What is wrong goes to standard error, a line each; the exit status is 1 then. Linked with -rdynamic it has pcscd's
 * log function, whose lines go to standard output.
 */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <dirent.h>
#include <grp.h>
#include <time.h>
#include <unistd.h>

#include <ifdhandler.h>

#define READER 0x30000
#define OTHER 0x40000
#define FEATURES (0x42000000 + 3400)

static int wrong;

#define CHECK(got, want)                                                                           \
	do {                                                                                       \
		long g = (long)(got), w = (long)(want);                                            \
		if (g != w) {                                                                      \
			fprintf(stderr, "%s:%d: %s is %ld, want %ld\n", __FILE__, __LINE__, #got, g, w); \
			__atomic_store_n(&wrong, 1, __ATOMIC_RELAXED);                             \
		}                                                                                  \
	} while (0)

/* pcscd's. */
void log_msg(const int priority, const char *format, ...)
{
	char line[2048];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	printf("LOG %d %s\n", priority, line);
	fflush(stdout);
}

/* The driver. */
static struct {
	RESPONSECODE (*create_by_name)(DWORD, LPSTR);
	RESPONSECODE (*create)(DWORD, DWORD);
	RESPONSECODE (*close)(DWORD);
	RESPONSECODE (*get)(DWORD, DWORD, PDWORD, PUCHAR);
	RESPONSECODE (*set)(DWORD, DWORD, DWORD, PUCHAR);
	RESPONSECODE (*protocol)(DWORD, DWORD, UCHAR, UCHAR, UCHAR, UCHAR);
	RESPONSECODE (*power)(DWORD, DWORD, PUCHAR, PDWORD);
	RESPONSECODE (*transmit)(DWORD, SCARD_IO_HEADER, PUCHAR, DWORD, PUCHAR, PDWORD, PSCARD_IO_HEADER);
	RESPONSECODE (*control)(DWORD, DWORD, PUCHAR, DWORD, PUCHAR, DWORD, LPDWORD);
	RESPONSECODE (*presence)(DWORD);
	RESPONSECODE (*poll)(DWORD, int);
	RESPONSECODE (*stop)(DWORD);
} ifd;

static const SCARD_IO_HEADER t0 = {0, sizeof(SCARD_IO_HEADER)};

static void *symbol(void *library, const char *name)
{
	void *f = dlsym(library, name);

	if (f == NULL) {
		fprintf(stderr, "no %s: %s\n", name, dlerror());
		exit(1);
	}
	return f;
}

static void *load(const char *path)
{
	/* As pcscd does. */
	void *library = dlopen(path, RTLD_LAZY);
	DWORD n;

	if (library == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		exit(1);
	}
	ifd.create_by_name = symbol(library, "IFDHCreateChannelByName");
	ifd.create = symbol(library, "IFDHCreateChannel");
	ifd.close = symbol(library, "IFDHCloseChannel");
	ifd.get = symbol(library, "IFDHGetCapabilities");
	ifd.set = symbol(library, "IFDHSetCapabilities");
	ifd.protocol = symbol(library, "IFDHSetProtocolParameters");
	ifd.power = symbol(library, "IFDHPowerICC");
	ifd.transmit = symbol(library, "IFDHTransmitToICC");
	ifd.control = symbol(library, "IFDHControl");
	ifd.presence = symbol(library, "IFDHICCPresence");
	n = sizeof ifd.poll;
	CHECK(ifd.get(READER, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &n, (PUCHAR)&ifd.poll), IFD_SUCCESS);
	CHECK(n, sizeof ifd.poll);
	n = sizeof ifd.stop;
	CHECK(ifd.get(READER, TAG_IFD_STOP_POLLING_THREAD, &n, (PUCHAR)&ifd.stop), IFD_SUCCESS);
	CHECK(n, sizeof ifd.stop);
	return library;
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int entries(const char *dir)
{
	DIR *d = opendir(dir);
	int n = 0;

	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

/* A command of n bytes with a response of at most room, whose length it returns. */
static DWORD transmit(DWORD n, const char *command, DWORD room, RESPONSECODE want)
{
	static unsigned char response[512];
	SCARD_IO_HEADER received = t0;
	DWORD got = room;

	memset(response, 0xEE, sizeof response);
	CHECK(ifd.transmit(READER, t0, (PUCHAR)command, n, response, &got, &received), want);
	if (want != IFD_SUCCESS)
		CHECK(got, 0);
	for (size_t i = room; i < sizeof response; i++)
		if (response[i] != 0xEE) {
			fprintf(stderr, "byte %zu was written, there is room for %lu\n", i, room);
			wrong = 1;
			break;
		}
	return got;
}

/* Waits for a card by the polling function, and switches it on. */
static void insert(char *name)
{
	long end = now_ms() + 30000;
	unsigned char atr[MAX_ATR_SIZE];
	DWORD n = sizeof atr;

	CHECK(ifd.create_by_name(READER, name), IFD_SUCCESS);
	while (ifd.presence(READER) != IFD_SUCCESS && now_ms() < end)
		CHECK(ifd.poll(READER, 1000), IFD_SUCCESS);
	CHECK(ifd.presence(READER), IFD_SUCCESS);
	CHECK(ifd.power(READER, IFD_POWER_UP, atr, &n), IFD_SUCCESS);
	CHECK(n, 4);
	CHECK(memcmp(atr, "\x3b\x02\x14\x50", 4), 0);
	CHECK(ifd.protocol(READER, SCARD_PROTOCOL_T0, 0, 0, 0, 0), IFD_SUCCESS);
}

/* What every function says when there is no such reader, or no card in it. */
static void bad_arguments(DWORD lun, RESPONSECODE none, RESPONSECODE nothing)
{
	unsigned char buffer[300], command[300] = {0xa0, 0xa4, 0, 0, 2, 0x3f, 0};
	SCARD_IO_HEADER t1 = {1, sizeof t1};
	DWORD n;

	CHECK(ifd.presence(lun), none);
	for (DWORD action = 499; action <= 503; action++) {
		int known = action >= IFD_POWER_UP && action <= IFD_RESET;
		int off = action == IFD_POWER_DOWN;
		RESPONSECODE want = nothing == IFD_COMMUNICATION_ERROR ? nothing :
			!known ? IFD_NOT_SUPPORTED : off ? IFD_SUCCESS : none;

		n = 33;
		CHECK(ifd.power(lun, action, buffer, &n), want);
		CHECK(n, 0);
		CHECK(ifd.power(lun, action, NULL, NULL), off ? want : IFD_ERROR_INSUFFICIENT_BUFFER);
		n = 33;
		CHECK(ifd.power(lun, action, NULL, &n), off ? want : IFD_ERROR_INSUFFICIENT_BUFFER);
		CHECK(n, 0);
		CHECK(ifd.power(lun, action, buffer, NULL), off ? want : IFD_ERROR_INSUFFICIENT_BUFFER);
	}

	n = sizeof buffer;
	CHECK(ifd.transmit(lun, t0, command, 7, buffer, &n, NULL), none);
	CHECK(n, 0);
	n = sizeof buffer;
	CHECK(ifd.transmit(lun, t0, NULL, 7, buffer, &n, NULL), IFD_NOT_SUPPORTED);
	CHECK(n, 0);
	n = sizeof buffer;
	CHECK(ifd.transmit(lun, t0, command, 0, buffer, &n, NULL), none);
	n = sizeof buffer;
	CHECK(ifd.transmit(lun, t0, command, (DWORD)-1, buffer, &n, NULL), IFD_NOT_SUPPORTED);
	CHECK(n, 0);
	n = sizeof buffer;
	CHECK(ifd.transmit(lun, t1, command, 7, buffer, &n, NULL),
		nothing == IFD_COMMUNICATION_ERROR ? nothing : IFD_PROTOCOL_NOT_SUPPORTED);
	n = 1;
	CHECK(ifd.transmit(lun, t0, command, 7, buffer, &n, NULL), IFD_ERROR_INSUFFICIENT_BUFFER);
	CHECK(n, 0);
	n = sizeof buffer;
	CHECK(ifd.transmit(lun, t0, command, 7, NULL, &n, NULL), IFD_ERROR_INSUFFICIENT_BUFFER);
	CHECK(n, 0);
	CHECK(ifd.transmit(lun, t0, command, 7, buffer, NULL, NULL), IFD_ERROR_INSUFFICIENT_BUFFER);
	CHECK(ifd.transmit(lun, t0, NULL, 0, NULL, NULL, NULL), IFD_ERROR_INSUFFICIENT_BUFFER);

	n = 7;
	CHECK(ifd.control(lun, FEATURES, NULL, 0, buffer, sizeof buffer, &n), nothing);
	CHECK(n, 0);
	n = 7;
	CHECK(ifd.control(lun, FEATURES, NULL, 0, NULL, 0, &n), nothing);
	CHECK(n, 0);
	CHECK(ifd.control(lun, FEATURES, NULL, 0, buffer, sizeof buffer, NULL), IFD_ERROR_INSUFFICIENT_BUFFER);
	n = 7;
	CHECK(ifd.control(lun, 1, NULL, 1000000, NULL, 1000000, &n),
		nothing == IFD_SUCCESS ? IFD_ERROR_NOT_SUPPORTED : nothing);
	CHECK(n, 0);

	n = 33;
	CHECK(ifd.get(lun, TAG_IFD_ATR, &n, buffer), none);
	CHECK(ifd.get(lun, TAG_IFD_ATR, NULL, NULL), none);
	CHECK(ifd.get(lun, TAG_IFD_THREAD_SAFE, NULL, NULL), IFD_ERROR_INSUFFICIENT_BUFFER);
	CHECK(ifd.get(lun, TAG_IFD_THREAD_SAFE, NULL, buffer), IFD_ERROR_INSUFFICIENT_BUFFER);
	n = 1;
	CHECK(ifd.get(lun, TAG_IFD_THREAD_SAFE, &n, NULL), IFD_ERROR_INSUFFICIENT_BUFFER);
	n = 0;
	CHECK(ifd.get(lun, TAG_IFD_THREAD_SAFE, &n, buffer), IFD_ERROR_INSUFFICIENT_BUFFER);
	n = 7;
	CHECK(ifd.get(lun, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &n, buffer), IFD_ERROR_INSUFFICIENT_BUFFER);
	n = sizeof buffer;
	CHECK(ifd.get(lun, TAG_IFD_SIMULTANEOUS_ACCESS, &n, buffer), IFD_SUCCESS);
	CHECK(n, 1);
	CHECK(buffer[0] > 1, 1);
	n = sizeof buffer;
	CHECK(ifd.get(lun, TAG_IFD_THREAD_SAFE, &n, buffer), IFD_SUCCESS);
	CHECK(n, 1);
	CHECK(buffer[0], 1);
	n = sizeof buffer;
	CHECK(ifd.get(lun, 0x1234, &n, buffer), IFD_ERROR_TAG);
	CHECK(ifd.get(lun, (DWORD)-1, &n, buffer), IFD_ERROR_TAG);

	CHECK(ifd.set(lun, TAG_IFD_ATR, 0, NULL), nothing == IFD_SUCCESS ? IFD_NOT_SUPPORTED : nothing);
	CHECK(ifd.protocol(lun, SCARD_PROTOCOL_T0, 0xff, 0xff, 0xff, 0xff), nothing);
	CHECK(ifd.protocol(lun, SCARD_PROTOCOL_T1, 0, 0, 0, 0),
		nothing == IFD_SUCCESS ? IFD_PROTOCOL_NOT_SUPPORTED : nothing);
	CHECK(ifd.stop(lun), nothing);
	CHECK(ifd.poll(lun, 60000), nothing); /* it was stopped */
	CHECK(ifd.poll(lun, 0), nothing);
	CHECK(ifd.poll(lun, -1), nothing);
	CHECK(ifd.create(OTHER, 0), IFD_COMMUNICATION_ERROR);
	CHECK(ifd.create_by_name(OTHER, NULL), IFD_COMMUNICATION_ERROR);
	CHECK(ifd.close(OTHER), IFD_COMMUNICATION_ERROR);
}

static void arguments(char *name)
{
	static char huge[1 << 20];

	bad_arguments(READER, IFD_COMMUNICATION_ERROR, IFD_COMMUNICATION_ERROR);
	bad_arguments(0, IFD_COMMUNICATION_ERROR, IFD_COMMUNICATION_ERROR);
	bad_arguments((DWORD)-1, IFD_COMMUNICATION_ERROR, IFD_COMMUNICATION_ERROR);
	CHECK(ifd.create_by_name(READER, name), IFD_SUCCESS);
	bad_arguments(READER, IFD_ICC_NOT_PRESENT, IFD_SUCCESS);
	bad_arguments(READER + 1, IFD_COMMUNICATION_ERROR, IFD_COMMUNICATION_ERROR);
	CHECK(ifd.create_by_name(READER, name), IFD_COMMUNICATION_ERROR);
	CHECK(ifd.close(READER), IFD_SUCCESS);

	memset(huge, '1', sizeof huge - 1);
	CHECK(ifd.create_by_name(READER, huge), IFD_SUCCESS);
	bad_arguments(READER, IFD_ICC_NOT_PRESENT, IFD_SUCCESS);
	CHECK(ifd.close(READER), IFD_SUCCESS);
	CHECK(ifd.close(READER), IFD_COMMUNICATION_ERROR);
	bad_arguments(READER, IFD_COMMUNICATION_ERROR, IFD_COMMUNICATION_ERROR);
}

/* A card, with buffers that are too short for what it says. */
static void card(char *name)
{
	unsigned char atr[MAX_ATR_SIZE];
	DWORD n;

	insert(name);
	CHECK(transmit(7, "\xa0\xa4\x00\x00\x02\x3f\x00", 258, IFD_SUCCESS), 2);
	CHECK(transmit(5, "\x00\xb0\x00\x00\x00", 258, IFD_SUCCESS), 258);
	transmit(5, "\x00\xb0\x00\x00\x00", 257, IFD_ERROR_INSUFFICIENT_BUFFER);
	transmit(0, "", 258, IFD_NOT_SUPPORTED);
	transmit(3, "\x00\xb0\x00", 258, IFD_NOT_SUPPORTED);
	transmit(262, "", 258, IFD_NOT_SUPPORTED);
	CHECK(transmit(4, "\x00\x44\x00\x00", 258, IFD_SUCCESS), 2);

	memset(atr, 0xEE, sizeof atr);
	n = 3;
	CHECK(ifd.get(READER, TAG_IFD_ATR, &n, atr), IFD_ERROR_INSUFFICIENT_BUFFER);
	n = 3;
	CHECK(ifd.power(READER, IFD_RESET, atr, &n), IFD_ERROR_INSUFFICIENT_BUFFER);
	CHECK(n, 0);
	CHECK(atr[0], 0xEE);
	n = sizeof atr;
	CHECK(ifd.get(READER, TAG_IFD_ATR, &n, atr), IFD_SUCCESS);
	CHECK(n, 4);
	CHECK(ifd.power(READER, IFD_POWER_DOWN, NULL, NULL), IFD_SUCCESS);
	n = sizeof atr;
	CHECK(ifd.power(READER, IFD_RESET, atr, &n), IFD_SUCCESS);
	CHECK(n, 4);
	CHECK(transmit(7, "\xa0\xa4\x00\x00\x02\x3f\x00", 258, IFD_SUCCESS), 2);
	CHECK(ifd.close(READER), IFD_SUCCESS);
}

/* Signals. */

static volatile sig_atomic_t caught;
static char *volatile caught_at; /* the handler's stack */

static void on_signal(int signal)
{
	caught = signal;
	caught_at = __builtin_frame_address(0);
}

static void on_siginfo(int signal, siginfo_t *info, void *context)
{
	(void)info;
	(void)context;
	on_signal(signal);
}

static sigjmp_buf out_of_fault;

static void on_fault(int signal)
{
	caught = signal;
	siglongjmp(out_of_fault, 1);
}

static void write_to_nobody(void)
{
	int pair[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	close(pair[1]);
	errno = 0;
	CHECK(write(pair[0], "x", 1), -1);
	CHECK(errno, EPIPE);
	close(pair[0]);
}

/* On a thread that has never called the driver, and on one that has. */
static void *pipe_thread(void *called)
{
	if (called != NULL)
		CHECK(ifd.presence(READER), IFD_ICC_NOT_PRESENT);
	write_to_nobody();
	return NULL;
}

static void *in_thread(void *(*run)(void *), void *argument)
{
	pthread_t thread;
	void *result;

	pthread_create(&thread, NULL, run, argument);
	pthread_join(thread, &result);
	return result;
}

static void sigpipe(const char *path, char *name, void (*before)(int))
{
	struct sigaction action = {.sa_handler = before};

	CHECK(sigaction(SIGPIPE, &action, NULL), 0);
	load(path);
	for (int i = 0; i < 2; i++) {
		caught = 0;
		write_to_nobody();
		CHECK(caught, before == on_signal ? SIGPIPE : 0);
		caught = 0;
		in_thread(pipe_thread, NULL);
		CHECK(caught, before == on_signal ? SIGPIPE : 0);
		CHECK(ifd.create_by_name(READER, name), IFD_SUCCESS);
		caught = 0;
		in_thread(pipe_thread, "has called");
		CHECK(caught, before == on_signal ? SIGPIPE : 0);
		CHECK(ifd.close(READER), IFD_SUCCESS);
	}
}

/* Standard error has nobody at its end, and there is no log but that. */
static void broken_stderr(const char *path)
{
	int pair[2], keep = dup(2);

	signal(SIGPIPE, SIG_DFL);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	close(pair[1]);
	load(path);
	dup2(pair[0], 2);
	for (int i = 0; i < 10; i++)
		ifd.create(READER, 0);
	ifd.create_by_name(READER, "5:1:127.0.0.1:1");
	usleep(100000); /* a refused connection is logged by a thread of the driver */
	ifd.close(READER);
	dup2(keep, 2);
}

static void raise_all(const int *list, int n)
{
	for (int i = 0; i < n; i++) {
		caught = 0;
		pthread_kill(pthread_self(), list[i]);
		CHECK(caught, list[i]);
	}
}

/* All that a program handles, but SIGURG, by which Go's runtime interrupts its own threads. */
static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD, SIGALRM, SIGPIPE, SIGQUIT, SIGWINCH};
#define SIGNALS ((int)(sizeof signals / sizeof *signals))

static void *signal_thread(void *unused)
{
	static char stack[65536];
	stack_t mine = {.ss_sp = stack, .ss_size = sizeof stack}, after;
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
	sigset_t mask, mask_after;

	(void)unused;
	raise_all(signals, SIGNALS);
	/* A stack for signals, and blocked ones, are the thread's own affair. */
	CHECK(sigaltstack(&mine, NULL), 0);
	sigemptyset(&mask);
	sigaddset(&mask, SIGTTIN);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	for (int i = 0; i < 3; i++)
		CHECK(ifd.presence(READER), IFD_ICC_NOT_PRESENT);
	CHECK(ifd.poll(READER, 10), IFD_SUCCESS);
	CHECK(sigaltstack(NULL, &after), 0);
	CHECK(after.ss_sp == stack && after.ss_size == sizeof stack && after.ss_flags == 0, 1);
	pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
	CHECK(sigismember(&mask_after, SIGTTIN), 1);
	CHECK(sigismember(&mask_after, SIGTERM), 0);
	raise_all(signals, SIGNALS);
	CHECK(sigaction(SIGUSR2, &action, NULL), 0);
	caught = 0;
	pthread_kill(pthread_self(), SIGUSR2);
	CHECK(caught, SIGUSR2);
	CHECK(caught_at > stack && caught_at < stack + sizeof stack, 1);
	return NULL;
}

/* Signals that come to a thread of the driver's: this one doesn't take them. */
static void on_go_threads(void)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (int i = 0; i < SIGNALS; i++) {
		long end = now_ms() + 60000;

		caught = 0;
		kill(getpid(), signals[i]);
		while (caught == 0 && now_ms() < end)
			usleep(1000);
		CHECK(caught, signals[i]);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void own_handlers(const char *path, char *name)
{
	struct sigaction action = {.sa_handler = on_signal}, info = {.sa_sigaction = on_siginfo, .sa_flags = SA_SIGINFO};
	struct sigaction fault = {.sa_handler = on_fault}, is;

	for (int i = 0; i < SIGNALS; i++)
		CHECK(sigaction(signals[i], i % 2 ? &action : &info, NULL), 0);
	CHECK(sigaction(SIGSEGV, &fault, NULL), 0);
	load(path);
	raise_all(signals, SIGNALS);
	CHECK(ifd.create_by_name(READER, name), IFD_SUCCESS);
	raise_all(signals, SIGNALS);
	in_thread(signal_thread, NULL);

	/* A fault of the host's is the host's. */
	caught = 0;
	if (sigsetjmp(out_of_fault, 1) == 0)
		*(volatile char *)16 = 1;
	CHECK(caught, SIGSEGV);

	/* Handlers that come later, as those of pcscd do that it sets when its readers are there. */
	for (int i = 0; i < SIGNALS; i++)
		CHECK(sigaction(signals[i], i % 2 ? &info : &action, NULL), 0);
	raise_all(signals, SIGNALS);
	CHECK(ifd.poll(READER, 0), IFD_SUCCESS);
	raise_all(signals, SIGNALS);
	on_go_threads();
	CHECK(ifd.close(READER), IFD_SUCCESS);
	for (int i = 0; i < SIGNALS; i++) {
		CHECK(sigaction(signals[i], NULL, &is), 0);
		CHECK(is.sa_handler == on_signal || is.sa_sigaction == on_siginfo, 1);
		CHECK(is.sa_flags & SA_ONSTACK, SA_ONSTACK); /* else it could overrun a goroutine's stack */
	}
	/* One that was left as it is still ends the process. */
	CHECK(sigaction(SIGXCPU, NULL, &is), 0);
	CHECK(is.sa_handler == SIG_DFL, 1);
}

/* Threads. */

static void *any_calls(void *argument)
{
	unsigned int seed = (unsigned int)(size_t)argument;
	unsigned char buffer[300], command[300] = {0xa0, 0xa4, 0, 0, 2, 0x3f, 0};
	char *names[] = {"1:1:127.0.0.1:1", "", "x", "1:1:nowhere.invalid:1", "client=1;slot=1;port=1"};
	long end = now_ms() + 1500;

	while (now_ms() < end) {
		DWORD lun = (DWORD)(rand_r(&seed) % 4) << 16, n = (DWORD)(rand_r(&seed) % 300);
		DWORD actions[] = {IFD_POWER_UP, IFD_POWER_DOWN, IFD_RESET, 0};
		RESPONSECODE got;

		switch (rand_r(&seed) % 12) {
		case 0: got = ifd.create_by_name(lun, names[rand_r(&seed) % 5]); break;
		case 1: got = ifd.close(lun); break;
		case 2: got = ifd.get(lun, 0x0FAC + (DWORD)(rand_r(&seed) % 8), &n, buffer); break;
		case 3: got = ifd.get(lun, TAG_IFD_ATR, &n, buffer); break;
		case 4: got = ifd.set(lun, 1, 1, buffer); break;
		case 5: got = ifd.protocol(lun, 1 + (DWORD)(rand_r(&seed) % 2), 0, 0, 0, 0); break;
		case 6: got = ifd.power(lun, actions[rand_r(&seed) % 4], buffer, &n); break;
		case 7: got = ifd.transmit(lun, t0, command, n, buffer, &n, NULL); break;
		case 8: got = ifd.control(lun, FEATURES, command, n, buffer, n, &n); break;
		case 9: got = ifd.poll(lun, rand_r(&seed) % 20); break;
		case 10: got = ifd.stop(lun); break;
		default: got = ifd.presence(lun); break;
		}
		if (got != IFD_SUCCESS && (got < IFD_ERROR_TAG || got > IFD_ERROR_INSUFFICIENT_BUFFER))
			CHECK(got, IFD_SUCCESS);
	}
	return NULL;
}

static void threads(void)
{
	pthread_t all[8];
	int before = 0;

	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < 8; i++)
			pthread_create(&all[i], NULL, any_calls, (void *)(i + 8 * (size_t)round));
		for (size_t i = 0; i < 8; i++)
			pthread_join(all[i], NULL);
		for (DWORD lun = 0; lun < 4; lun++)
			ifd.close(lun << 16);
		if (round == 0)
			before = entries("/proc/self/fd");
	}
	CHECK(entries("/proc/self/fd") <= before, 1);
}

static void *waits_in_poll(void *unused)
{
	(void)unused;
	return (void *)ifd.poll(READER, 600000);
}

static void *waits_in_transmit(void *unused)
{
	unsigned char response[258];
	DWORD n = sizeof response;

	(void)unused;
	return (void *)ifd.transmit(READER, t0, (PUCHAR) "\xff\x00\x00\x00", 4, response, &n, NULL);
}

/* A reader that is closed in the middle of calls for it; FF00 is answered by nobody. */
static void stop(char *name)
{
	pthread_t polls, transmits;
	void *polled, *transmitted;
	long start;

	insert(name);
	pthread_create(&polls, NULL, waits_in_poll, NULL);
	pthread_create(&transmits, NULL, waits_in_transmit, NULL);
	usleep(200000);
	start = now_ms();
	CHECK(ifd.close(READER), IFD_SUCCESS);
	pthread_join(polls, &polled);
	pthread_join(transmits, &transmitted);
	CHECK(now_ms() - start < 15000, 1); /* it takes milliseconds, and a command up to 60 s */
	CHECK(polled == (void *)IFD_SUCCESS || polled == (void *)IFD_COMMUNICATION_ERROR, 1);
	CHECK(transmitted == (void *)IFD_COMMUNICATION_ERROR, 1);
}

/* The library can't be unloaded; who loads it again finds no reader and no more threads. */
static void reload(const char *path, void *library, char *name)
{
	int tasks = 0;

	for (int i = 0; i < 50; i++) {
		CHECK(ifd.presence(READER), IFD_COMMUNICATION_ERROR);
		CHECK(ifd.create_by_name(READER, name), IFD_SUCCESS);
		CHECK(ifd.presence(READER), IFD_ICC_NOT_PRESENT);
		CHECK(ifd.close(READER), IFD_SUCCESS);
		CHECK(dlclose(library), 0);
		usleep(1000);
		library = load(path);
		if (i == 9)
			tasks = entries("/proc/self/task");
	}
	/* The runtime may want one more of its own at any time, but not one each time. */
	CHECK(entries("/proc/self/task") <= tasks + 8, 1);
}

/* Memory that is writable and executable is denied as systemd does it for MemoryDenyWriteExecute=yes, and by the kernel's own means. */
static void deny_exec_memory(void)
{
#ifdef __x86_64__
#define LOAD(what) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, what))
#define IS(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
	struct sock_filter filter[] = {
		LOAD(nr),
		IS(SYS_mmap, 3, 0),
		IS(SYS_mprotect, 5, 0),
		IS(SYS_pkey_mprotect, 4, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		/* mmap: write and exec together */
		LOAD(args[2]),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, PROT_WRITE | PROT_EXEC),
		IS(PROT_WRITE | PROT_EXEC, 3, 4),
		/* mprotect: exec */
		LOAD(args[2]),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 1, 2),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof filter / sizeof *filter, filter};

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
#endif
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif
	if (prctl(PR_SET_MDWE, 1, 0, 0, 0) != 0) /* since Linux 6.3 */
		CHECK(errno, EINVAL);
#ifdef __x86_64__
	/* It works. */
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED, 1);
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC), -1);
	CHECK(mprotect(page, 4096, PROT_READ), 0);
#endif
}

static void become_nobody(void)
{
	if (geteuid() == 0) {
		CHECK(setgroups(0, NULL), 0);
		CHECK(setresgid(65534, 65534, 65534), 0);
		CHECK(setresuid(65534, 65534, 65534), 0);
	}
	clearenv();
	CHECK(chdir("/"), 0);
}

int main(int argc, char **argv)
{
	const char *path, *scenario;
	char *name;

	if (argc != 4)
		return 2;
	path = argv[1];
	scenario = argv[2];
	name = argv[3];
	alarm(120); /* what hangs is seen as that */
	if (strcmp(scenario, "arguments") == 0) {
		load(path);
		arguments(name);
	} else if (strcmp(scenario, "card") == 0) {
		load(path);
		card(name);
	} else if (strcmp(scenario, "sigpipe-default") == 0) {
		sigpipe(path, name, SIG_DFL);
	} else if (strcmp(scenario, "sigpipe-ignored") == 0) {
		sigpipe(path, name, SIG_IGN);
	} else if (strcmp(scenario, "sigpipe-caught") == 0) {
		sigpipe(path, name, on_signal);
	} else if (strcmp(scenario, "broken-stderr") == 0) {
		broken_stderr(path);
	} else if (strcmp(scenario, "handlers") == 0) {
		own_handlers(path, name);
	} else if (strcmp(scenario, "threads") == 0) {
		load(path);
		threads();
	} else if (strcmp(scenario, "stop") == 0) {
		load(path);
		stop(name);
	} else if (strcmp(scenario, "reload") == 0) {
		reload(path, load(path), name);
	} else if (strcmp(scenario, "confined") == 0) {
		become_nobody();
		deny_exec_memory();
		load(path);
		card(name);
	} else {
		return 2;
	}
	return wrong;
}
