// CPU time and peak memory of a process, read from outside while it runs.
//
// Invariant: CPU time is user plus system time of all its threads, ended ones included, to the ns
// (clock_gettime of the process's CPU clock). Peak memory is VmHWM: the most that it held at once.

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// cpuOf returns the CPU time of process `pid`.
func cpuOf(pid int) (time.Duration, error) {
	// <linux/posix-timers.h>: the pid's complement, and 2 for the scheduler's clock of a whole process.
	clock := ^pid<<3 | 2
	var at syscall.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&at)), 0); errno != 0 {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, errno)
	}
	return time.Duration(at.Nano()), nil
}

// cpuOfAll sums cpuOf; a process that has ended counts as 0.
func cpuOfAll(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		if cpu, err := cpuOf(pid); err == nil {
			sum += cpu
		}
	}
	return sum
}

// peakBytes returns VmHWM of process `pid`; 0 once it has ended.
func peakBytes(pid int) uint64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, found := bytes.Cut(status, []byte("VmHWM:"))
	fields := bytes.Fields(rest)
	if !found || len(fields) == 0 {
		return 0
	}
	kib, err := strconv.ParseUint(string(fields[0]), 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}
