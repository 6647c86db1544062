package netio

import (
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestPeerState(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not every system reports the state")
	}
	near, far := relaytest.TCPPair(t)
	if peerReset(far) {
		t.Error("a new connection counts as reset")
	}
	_, err := near.Write([]byte("question"))
	relaytest.Check(t, err)
	relaytest.Check(t, near.CloseWrite())
	got := make([]byte, 8)
	_, err = io.ReadFull(far, got[:4])
	relaytest.Check(t, err)
	if peerReset(far) {
		t.Error("a connection whose peer sent a FIN counts as reset")
	}
	if _, err = io.ReadFull(far, got[4:]); err != nil || string(got) != "question" {
		t.Errorf("bytes are missing after the query: %q, %v", got, err)
	}
	if n, err := far.Read(got); n != 0 || err != io.EOF || peerReset(far) {
		t.Errorf("a connection at the end of its stream counts as reset: %v", err)
	}
	Reset(near)
	relaytest.Eventually(t, "the reset", func() bool { return peerReset(far) })
	relaytest.Check(t, far.Close())
	if !peerReset(far) {
		t.Error("a closed connection does not count as reset")
	}
}

func TestPeerStateBeforeData(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not every system reports the state")
	}
	near, far := relaytest.TCPPair(t)
	Reset(near)
	relaytest.Eventually(t, "the reset", func() bool { return peerReset(far) })
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the error is missing after the query: %v", err)
	}
	if !peerReset(far) {
		t.Error("a reset connection does not count as reset after the error was read")
	}
}

// A connection without a descriptor has no state. The query does not wait for a
// concurrent Read.
func TestPeerStateOfOtherConns(t *testing.T) {
	one, other := net.Pipe()
	relaytest.Check(t, one.Close())
	if peerReset(other) {
		t.Error("a pipe counts as reset")
	}
	near, far := relaytest.TCPPair(t)
	reading := make(chan error)
	go func() {
		_, err := far.Read(make([]byte, 1))
		reading <- err
	}()
	time.Sleep(time.Millisecond) // the Read has probably started
	if peerReset(far) {
		t.Error("a connection counts as reset during a Read")
	}
	relaytest.Check(t, near.Close())
	<-reading
}

func TestReset(t *testing.T) {
	near, far := relaytest.TCPPair(t)
	_, err := near.Write([]byte("unread"))
	relaytest.Check(t, err)
	Reset(far)
	if _, err := near.Read(make([]byte, 1)); runtime.GOOS != "windows" && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
	one, other := net.Pipe()
	Reset(one)
	if _, err := other.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a pipe is not closed: %v", err)
	}
	Reset(far) // a second call does nothing
}

func TestSessionLimit(t *testing.T) {
	limit := SessionLimit()
	if limit < 1 || limit > 65536 {
		t.Errorf("limit %d", limit)
	}
	if files := descriptorLimit(); files > 0 && limit > files/2 {
		t.Errorf("limit %d of %d descriptors", limit, files)
	}
	if ports := ephemeralPorts(); ports < 1 || ports > 65535 || limit > ports*8/10 {
		t.Errorf("limit %d of %d ports", limit, ports)
	}
}

func peerReset(conn net.Conn) bool { return PeerStateOf(conn).Reset() }
