// What a process has taken: CPU time and peak memory, from outside and while it lives.
//
// Invariant: CPU time is user and system of all its threads, those that ended too, to the ns
// (clock_gettime of the process's CPU clock), and peak memory is VmHWM: what it held at once, at most.

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

// cpuOfAll adds up; a process that is gone counts as none.
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
