package netio

import (
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A socket that Go's poller rejects is a local shortage, not the peer's fault.
func TestAwaitConnectUnpolled(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	relaytest.Check(t, err)
	relaytest.RejectPolling(t, fd)
	_, err = AwaitConnect(context.Background(), fd) // it never connects
	if Classify(err) != Exhausted {
		t.Errorf("the class of %v is %v, want %v", err, Classify(err), Exhausted)
	}
}

// CheckPolled tells files in Go's poller from others.
func TestCheckPolled(t *testing.T) {
	near, _ := relaytest.TCPPair(t)
	polled, err := near.File()
	relaytest.Check(t, err)
	defer polled.Close()
	relaytest.Check(t, CheckPolled(polled))
	unpolled, err := os.Open("/proc/self/stat")
	relaytest.Check(t, err)
	defer unpolled.Close()
	if err := CheckPolled(unpolled); Classify(err) != Exhausted {
		t.Errorf("got %v", err)
	}
}
