package relaytest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AnyDescriptor stands for every descriptor in [RejectPolling].
const AnyDescriptor = -1

// RejectPolling makes the kernel reject a descriptor with ENOSPC when Go's poller
// adds it to its epoll instance, from now on. [AnyDescriptor] means all of them.
// It cannot be undone, so use it in a child process (see [InChild]). It skips the
// test where the system does not allow it.
func RejectPolling(t testing.TB, fd int) {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the filter is written for little-endian machines")
	}
	// The fields of struct seccomp_data, see seccomp(2).
	const number, firstArgument, argumentSize = 0, 16, 8
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	filter := []unix.SockFilter{}
	// only adds a condition. The filter allows calls that do not meet all.
	only := func(offset, value uint32) {
		filter = append(filter, load(offset), unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	}
	only(number, unix.SYS_EPOLL_CTL)
	only(firstArgument, uint32(goPoller(t)))
	only(firstArgument+argumentSize, unix.EPOLL_CTL_ADD)
	if fd != AnyDescriptor {
		only(firstArgument+2*argumentSize, uint32(fd))
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSPC)})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}

	runtime.LockOSThread() // no_new_privs belongs to the thread until the filter is installed on all
	defer runtime.UnlockOSThread()
	Check(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		t.Skipf("this system does not allow seccomp filters: %v", errno)
	}
}

// goPoller returns the descriptor of the epoll instance of Go's poller. It is the
// oldest one of the process.
func goPoller(t testing.TB) int {
	t.Helper()
	reader, writer, err := os.Pipe() // starts the poller
	Check(t, err)
	defer reader.Close()
	defer writer.Close()
	names, err := os.ReadDir("/proc/self/fd")
	Check(t, err)
	lowest := -1
	for _, name := range names {
		target, _ := os.Readlink(filepath.Join("/proc/self/fd", name.Name()))
		fd, err := strconv.Atoi(name.Name())
		if err == nil && target == "anon_inode:[eventpoll]" && (lowest < 0 || fd < lowest) {
			lowest = fd
		}
	}
	if lowest < 0 {
		t.Fatal("Go's poller has no epoll instance")
	}
	return lowest
}
