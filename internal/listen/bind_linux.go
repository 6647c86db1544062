package listen

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// sharePort sets SO_REUSEPORT. It has the form of [net.ListenConfig.Control].
func sharePort(_, _ string, raw syscall.RawConn) error {
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) { errno = netio.SetReusePort(int(fd)) }); err != nil {
		return err
	}
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// heldByUs reports whether all sockets bound to a port belong to this process.
// It compares the sockets in /proc/net with the descriptors in /proc/self/fd,
// see proc(5).
func heldByUs(network string, port uint16) bool {
	holders := portHolders(strings.TrimRight(network, "46"), port)
	if len(holders) == 0 {
		return false
	}
	own := make(map[string]bool)
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			own[target] = true
		}
	}
	for _, inode := range holders {
		if !own["socket:["+inode+"]"] {
			return false
		}
	}
	return true
}

// Columns of /proc/net/tcp, tcp6, udp and udp6.
const (
	columnLocal = 1
	columnState = 3
	columnInode = 9
)

// portHolders returns the inodes of the sockets bound to a port, for TCP of the
// listening ones only.
func portHolders(network string, port uint16) (inodes []string) {
	for _, name := range []string{network, network + "6"} {
		file, err := os.Open("/proc/net/" + name)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			columns := strings.Fields(lines.Text())
			if len(columns) <= columnInode {
				continue
			}
			_, text, _ := strings.Cut(columns[columnLocal], ":")
			local, err := strconv.ParseUint(text, 16, 16)
			if err != nil || uint16(local) != port {
				continue
			}
			if network == "tcp" && columns[columnState] != "0A" { // TCP_LISTEN
				continue
			}
			inodes = append(inodes, columns[columnInode])
		}
		_ = file.Close()
	}
	return inodes
}
