// Preloaded by src/lab/run/clock.rs: the wall clock of one program is off by the seconds that the file
// $STEPPED_CLOCK names, which may change at any time; no other clock is. It covers what the lab's
// binaries import (nm -D), and no more. It allocates nothing: their allocator asks for the time
// while it initialises itself, which is what libfaketime hangs on (its issue 130).
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

enum { SECOND_NS = 1000000000, LOOK_NS = 20000000 }; // the latter: how late a waiter sees a step

static const char *seconds; // the file, mapped; not there yet while the program is being loaded

__attribute__((constructor)) static void map_file(void) {
  const char *path = getenv("STEPPED_CLOCK");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *at = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) {
    perror("STEPPED_CLOCK");
    _exit(1);
  }
  seconds = at;
  close(fd);
}

int clock_gettime(clockid_t id, struct timespec *now) {
  int failed = (int)syscall(SYS_clock_gettime, id, now);
  if (!failed && seconds && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
    now->tv_sec += strtol(seconds, NULL, 10);
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec exact;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out)
    *out = now.tv_sec;
  return now.tv_sec;
}

static long ns_until(const struct timespec *then) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (then->tv_sec - now.tv_sec) * SECOND_NS + then->tv_nsec - now.tv_nsec;
}

// Waits for a time of the wall clock, which is how librdkafka waits: who waits while the clock is
// stepped back waits that much longer, as with the kernel's own clock (librdkafka's issue 2145).
// So the clock is looked at again and again, without returning: librdkafka would wait anew for what
// is left by the monotonic clock, which hides just that. Its queues are signalled under `mutex`.
int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict then) {
  int code;
  do {
    struct timespec look;
    long left = ns_until(then);
    clock_gettime(CLOCK_MONOTONIC, &look);
    look.tv_nsec += left < 0 ? 0 : left < LOOK_NS ? left : LOOK_NS;
    look.tv_sec += look.tv_nsec / SECOND_NS;
    look.tv_nsec %= SECOND_NS;
    code = pthread_cond_clockwait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex, CLOCK_MONOTONIC, &look);
  } while (code == ETIMEDOUT && ns_until(then) > 0);
  return code == 0 ? thrd_success : code == ETIMEDOUT ? thrd_timedout : thrd_error;
}
