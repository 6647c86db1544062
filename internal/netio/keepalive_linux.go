package netio

import (
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SetKeepAlive switches TCP keep-alive on, with interval as the idle time and as
// the interval of probes, or off if it is 0. It never blocks.
func SetKeepAlive(fd int, interval time.Duration) {
	if interval == 0 {
		SetOption(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
		return
	}
	seconds := int(interval / time.Second)
	// SO_KEEPALIVE first: it counts from now, and then TCP_KEEPIDLE from the latest segment that
	// was received.
	SetOption(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	SetOption(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds)
	SetOption(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds)
	SetOption(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes)
}

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
