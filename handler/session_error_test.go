package handler

import (
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/upstream"
)

// icmp returns an ICMP error of a host that is not the backend.
func icmp(errno syscall.Errno) error {
	return &dgram.ICMPError{Errno: errno, From: netip.MustParseAddr("198.51.100.9")}
}

func TestUDPSocketErrors(t *testing.T) {
	bubble := func(name string, f func(t *testing.T, r *udpRig)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})) })
		})
	}
	bubble("a port unreachable of another host is ignored and counted", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(icmp(syscall.ECONNREFUSED))
		time.Sleep(10 * time.Second)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
		r.wantLines("ICMP error ignored, not from the backend", 1)
		if ignored := r.service.Stats(time.Now()).Ignored; ignored != 1 {
			t.Errorf("%d ignored, want 1", ignored)
		}
	})
	bubble("a packet too big costs one datagram", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(icmp(syscall.EMSGSIZE))
		r.engine.socket(1).sink.Failed(errTooBig)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
		if lost := r.service.Stats(time.Now()).Dropped[DroppedRefused]; lost != 2 {
			t.Errorf("%d dropped, want 2", lost)
		}
	})
	bubble("a host unreachable of a router counts after a second of silence", func(t *testing.T, r *udpRig) {
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).sink.Failed(icmp(syscall.EHOSTUNREACH))
		r.engine.socket(1).sink.Failed(icmp(syscall.EHOSTUNREACH))
		time.Sleep(unreachableAfter - time.Nanosecond)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		r.engine.wants(t, "1 close", "2 open 192.0.2.1:53", "2 < a")
		r.wantStrikes("192.0.2.1:53", 1, upstream.Struck)
		time.Sleep(unreachableAfter)
		synctest.Wait()
		r.engine.wants(t) // the second attempt has no report so far
		r.engine.socket(2).sink.Failed(icmp(syscall.EHOSTUNREACH))
		time.Sleep(unreadDelay)
		synctest.Wait()
		r.engine.wants(t, "2 close", "3 open 192.0.2.2:53", "3 < a")
	})
	bubble("an answer that was received before the report is read counts", func(t *testing.T, r *udpRig) {
		client := new(udpClient)
		r.deliver(1, client, "a")
		time.Sleep(5 * time.Second) // as after SIGSTOP: both are in the socket's queues
		r.engine.socket(1).sink.Failed(icmp(syscall.EHOSTUNREACH))
		r.engine.socket(1).answer("A")
		time.Sleep(10 * time.Second)
		client.wants(t, "A")
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
	})
	bubble("a late timer leaves time to receive the answer", func(t *testing.T, r *udpRig) {
		late := func(n int) {
			s := r.session(n)
			s.lock()
			u := s.extras.unreachable
			u.due = u.due.Add(-unreachableAfter - lateTimer)
			s.unlock()
			s.checkUnreachable(u)
		}
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(icmp(syscall.EHOSTUNREACH))
		late(1)
		time.Sleep(catchUp / 2)
		r.engine.socket(1).answer("A")
		time.Sleep(10 * time.Second)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")

		r.deliver(2, new(udpClient), "b")
		r.engine.socket(2).sink.Failed(icmp(syscall.EHOSTUNREACH))
		late(2)
		time.Sleep(catchUp - time.Nanosecond)
		r.engine.wants(t, "2 open 192.0.2.1:53", "2 < b")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		r.wantStrikes("192.0.2.1:53", 1, upstream.Struck)
	})
	bubble("a reassembly timeout of the backend costs one datagram", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(&dgram.ICMPError{Errno: syscall.EHOSTUNREACH, FromBackend: true, Fragment: true})
		time.Sleep(10 * time.Second)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
	})
	bubble("a host unreachable does not count after an answer", func(t *testing.T, r *udpRig) {
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).sink.Failed(icmp(syscall.EHOSTUNREACH))
		r.engine.socket(1).answer("A")
		r.engine.socket(1).sink.Failed(icmp(syscall.EHOSTUNREACH))
		r.deliver(1, client, "b")
		time.Sleep(2 * unreachableAfter)
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b")
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
	})
}

// Each address of a name has its own second of silence.
func TestUDPUnreachableAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"a.example:53", "192.0.2.9:53"})
		r.resolver.setCached("a.example", "192.0.2.1", "192.0.2.2")
		r.deliver(1, new(udpClient), "a")
		time.Sleep(5 * time.Second)
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.socket(2).sink.Failed(icmp(syscall.EHOSTUNREACH))
		time.Sleep(unreachableAfter - time.Nanosecond)
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.2:53", "2 < a")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		r.wantStrikes("a.example:53", 1, upstream.Struck)
	})
}

func TestUDPRejectedSends(t *testing.T) {
	for name, errno := range map[string]syscall.Errno{"EPERM": syscall.EPERM, "EACCES": syscall.EACCES, "ENETUNREACH": syscall.ENETUNREACH, "EHOSTUNREACH": syscall.EHOSTUNREACH} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"}, func(o *Options) { o.ConnectTimeout = time.Second })
				var rejected error
				r.engine.onSend = func(s *fakeSocket, _ []byte) error {
					if s.number == 1 {
						return rejected
					}
					return nil
				}
				client := new(udpClient)
				r.deliver(1, client, "a")
				r.engine.lines = nil
				rejected = errno
				r.deliver(1, client, "b")
				time.Sleep(time.Second - time.Nanosecond)
				r.deliver(1, client, "c")
				rejected = nil
				r.deliver(1, client, "d")
				r.engine.wants(t, "1 < b: "+errno.Error(), "1 < c: "+errno.Error(), "1 < d")
				r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
				if lost := r.service.Stats(time.Now()).Dropped[DroppedRefused]; lost != 2 {
					t.Errorf("%d dropped, want 2", lost)
				}
				rejected = errno // for as long as the connect timeout
				r.deliver(1, client, "e")
				time.Sleep(time.Second)
				r.deliver(1, client, "f")
				if got := r.engine.socket(1); !got.closed {
					t.Error("the session still uses the socket")
				}
			})
		})
	}
}
