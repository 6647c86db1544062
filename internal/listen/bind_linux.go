package listen

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// sharePort sets SO_REUSEPORT, see socket(7).
func sharePort(_, _ string, raw syscall.RawConn) error {
	var err error
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); e != nil {
		return e
	}
	return err
}

// heldByUs says whether all sockets bound to a port are this process' own, as
// proc(5) tells: the sockets of the network in /proc/net, our own in
// /proc/self/fd.
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

// Columns of /proc/net/tcp and its like.
const (
	columnLocal = 1
	columnState = 3
	columnInode = 9
)

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
