package netio

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// fileConn is [net.FileConn], but leaves the keep-alive of a TCP socket as it is. Package
// net sets its own default.
func fileConn(file *os.File) (net.Conn, error) {
	var values [len(keepAliveOptions)]int
	var known [len(keepAliveOptions)]bool
	withDescriptor(file, func(fd int) {
		for i, o := range keepAliveOptions {
			value, errno := Option(fd, o.level, o.name)
			values[i], known[i] = value, errno == 0
		}
	})
	conn, err := net.FileConn(file)
	if tcp, ok := conn.(*net.TCPConn); ok {
		withDescriptor(tcp, func(fd int) {
			for i, o := range keepAliveOptions {
				if known[i] {
					SetOption(fd, o.level, o.name, values[i])
				}
			}
		})
	}
	return conn, err
}

// keepAliveOptions are the options that [SetKeepAlive] sets.
var keepAliveOptions = [...]struct{ level, name int }{
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE},
}

// withDescriptor calls f with the descriptor of an open file or socket.
func withDescriptor(of syscall.Conn, f func(fd int)) {
	if raw, err := of.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}
