// Threads that make long runs, one at a time.
#define MR_IMPLEMENTATION
#include "api.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void *make_runs(void *thread) {
	mr_thread *t = thread;
	uint64_t begun;
	const uint64_t over = 1;
	for (;;) {
		while (read(t->begin, &begun, sizeof begun) != sizeof begun) continue;
		t->failed = mr_run(t->call);
		while (write(t->over, &over, sizeof over) != sizeof over) continue;
	}
	return NULL;
}

mr_thread *mr_thread_new(void) {
	mr_thread *t = calloc(1, sizeof *t);
	if (!t) return NULL;
	t->begin = eventfd(0, EFD_CLOEXEC);
	t->over = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	// Signals are Go's, but for those that a run raises itself.
	const int own[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL};
	sigset_t blocked, before;
	sigfillset(&blocked);
	for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&blocked, own[i]);
	pthread_t id;
	int failed = t->begin < 0 || t->over < 0;
	if (!failed) {
		pthread_sigmask(SIG_SETMASK, &blocked, &before);
		failed = pthread_create(&id, NULL, make_runs, t);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	if (!failed) {
		pthread_detach(id);
		return t;
	}
	if (t->begin >= 0) close(t->begin);
	if (t->over >= 0) close(t->over);
	free(t);
	return NULL;
}
