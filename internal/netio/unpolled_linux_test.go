package netio

import (
	"errors"
	"net"
	"testing"
	"time"
)

// Close waits for calls of Control. Afterwards, Control calls nothing.
func TestUnpolled(t *testing.T) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	u, err := DetachUDP(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write on a detached connection: %v", err)
	}
	running, proceed, closed := make(chan bool), make(chan bool), make(chan error, 1)
	ended := false
	go func() {
		_ = u.Control(func(fd uintptr) {
			running <- true
			<-proceed
			if at, err := LocalAddr(int(fd)); err != nil || at.String() != conn.LocalAddr().String() {
				t.Errorf("the socket's address is %v, %v", at, err)
			}
			ended = true
		})
	}()
	<-running
	go func() { closed <- u.Close() }()
	time.AfterFunc(20*time.Millisecond, func() { close(proceed) })
	if err := <-closed; err != nil || !ended {
		t.Errorf("close: %v; the call had ended: %v", err, ended)
	}
	if err := u.Control(func(uintptr) { t.Error("called with a closed socket") }); !errors.Is(err, net.ErrClosed) {
		t.Errorf("control: %v", err)
	}
	if err := u.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
}
