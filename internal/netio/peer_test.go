package netio

import (
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"
)

func TestPeerState(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not every system tells")
	}
	near, far := tcpPair(t)
	if peerReset(far) {
		t.Error("gone from the start")
	}
	_, err := near.Write([]byte("question"))
	check(t, err)
	check(t, near.CloseWrite())
	got := make([]byte, 8)
	_, err = io.ReadFull(far, got[:4])
	check(t, err)
	if peerReset(far) {
		t.Error("gone, though it merely finished sending")
	}
	if _, err = io.ReadFull(far, got[4:]); err != nil || string(got) != "question" {
		t.Errorf("asking took bytes away: %q, %v", got, err)
	}
	if n, err := far.Read(got); n != 0 || err != io.EOF || peerReset(far) {
		t.Errorf("gone at the end of the stream: %v", err)
	}
	Reset(near)
	eventually(t, "the reset", func() bool { return peerReset(far) })
	check(t, far.Close())
	if !peerReset(far) {
		t.Error("closed, but not gone")
	}
}

func TestPeerStateBeforeData(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not every system tells")
	}
	near, far := tcpPair(t)
	Reset(near)
	eventually(t, "the reset", func() bool { return peerReset(far) })
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("asking took the reset away: %v", err)
	}
	if !peerReset(far) {
		t.Error("back again, once the error was told")
	}
}

// It cannot be asked of what has no descriptor, nor does it wait for one who reads.
func TestPeerStateOfOtherConns(t *testing.T) {
	one, other := net.Pipe()
	check(t, one.Close())
	if peerReset(other) {
		t.Error("a pipe is gone")
	}
	near, far := tcpPair(t)
	reading := make(chan error)
	go func() {
		_, err := far.Read(make([]byte, 1))
		reading <- err
	}()
	time.Sleep(time.Millisecond) // likely to be reading, which must not matter
	if peerReset(far) {
		t.Error("gone while somebody reads")
	}
	check(t, near.Close())
	<-reading
}

func TestReset(t *testing.T) {
	near, far := tcpPair(t)
	_, err := near.Write([]byte("unread"))
	check(t, err)
	Reset(far)
	if _, err := near.Read(make([]byte, 1)); runtime.GOOS != "windows" && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a reset is %v", err)
	}
	one, other := net.Pipe()
	Reset(one)
	if _, err := other.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a pipe is not closed: %v", err)
	}
	Reset(far) // twice does no harm
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
