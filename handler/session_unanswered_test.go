package handler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// sendFor delivers a datagram of client 1 each second for d.
func sendFor(r *udpRig, client *udpClient, d time.Duration) {
	for range int(d / time.Second) {
		r.deliver(1, client, "line")
		time.Sleep(time.Second)
		synctest.Wait()
	}
}

// refuseTwice demotes all backends by a client that both of them refuse.
func refuseTwice(r *udpRig, client *udpClient) {
	r.engine.onSend = func(s *fakeSocket, _ []byte) error {
		go s.sink.Failed(errRefused)
		return nil
	}
	r.deliver(1, client, "line")
	synctest.Wait()
	r.engine.onSend = nil
	time.Sleep(refusedFor)
}

// A service that never answers recovers: each backend that takes datagrams without
// an error for some time is up again.
func TestSilentServiceRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:514", "192.0.2.2:514"})
		r.engine.quiet = true
		client := new(udpClient)
		refuseTwice(r, client)
		r.wantStrikes("192.0.2.1:514", 0, upstream.Down)
		r.wantStrikes("192.0.2.2:514", 0, upstream.Down)
		sendFor(r, client, takenFor-time.Second)
		r.wantStrikes("192.0.2.1:514", 0, upstream.Down)
		sendFor(r, client, 2*time.Second)
		r.wantStrikes("192.0.2.1:514", 0, upstream.Up)
		r.wantStrikes("192.0.2.2:514", 0, upstream.Down) // has taken nothing
		r.wantLines("backend recovered", 1)
		if got := r.service.Journal.Entries(); got[len(got)-1].Kind != KindRecovery {
			t.Errorf("the last entry is %s", got[len(got)-1])
		}
		client.wants(t)
	})
}

// A strike ends in the same way.
func TestSilentServiceClearsAStrike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:514", "192.0.2.2:514"})
		client := new(udpClient)
		r.deliver(1, client, "line")
		r.engine.socket(1).sink.Failed(errRefused)
		sendFor(r, client, takenFor)
		r.wantStrikes("192.0.2.1:514", 0, upstream.Up)
		r.wantLines("backend recovered", 0)
	})
}

// After such a success the client has two attempts on the backend again, and they
// count.
func TestFailureAfterSilentRecoveryCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:514", "192.0.2.2:514"})
		client := new(udpClient)
		refuseTwice(r, client)
		sendFor(r, client, takenFor)
		r.wantStrikes("192.0.2.1:514", 0, upstream.Up)
		r.engine.socket(r.engine.opened).sink.Failed(errRefused)
		r.wantStrikes("192.0.2.1:514", 1, upstream.Struck)
		r.engine.socket(r.engine.opened).sink.Failed(errRefused)
		r.wantStrikes("192.0.2.1:514", 0, upstream.Down)
	})
}

// What proves too little ends nothing.
func TestSilenceThatProvesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(*Options)
		send func(*udpRig, *udpClient)
	}{
		"a single datagram": {send: func(r *udpRig, client *udpClient) {
			r.deliver(1, client, "line")
			time.Sleep(3 * takenFor)
		}},
		"an error": {send: func(r *udpRig, client *udpClient) {
			sendFor(r, client, takenFor-2*time.Second)
			r.engine.socket(r.engine.opened).sink.Failed(errRefused)
			sendFor(r, client, takenFor-2*time.Second)
		}},
		"datagrams that this machine rejects": {send: func(r *udpRig, client *udpClient) {
			r.deliver(1, client, "line")
			r.engine.onSend = func(*fakeSocket, []byte) error { return errNoRoute }
			sendFor(r, client, takenFor+2*time.Second)
		}},
		"a reply timeout": {edit: func(o *Options) { o.UDPReplyTimeout = 2 * takenFor }, send: func(r *udpRig, client *udpClient) {
			sendFor(r, client, takenFor+2*time.Second)
		}},
		"a check that has failed": {send: func(r *udpRig, client *udpClient) {
			b := r.service.Pool.Backend("192.0.2.1:514")
			probe := r.service.Pool.Probe(b, upstream.UDP, upstream.Works)
			a, _ := probe.Next(time.Now())
			probe.Failed(a, time.Now(), errHealthTimeout)
			sendFor(r, client, takenFor+2*time.Second)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newUDPRig(t, []string{"192.0.2.1:514"}, func(o *Options) {
					o.ConnectTimeout, o.IdleTimeout = time.Hour, time.Hour
					if test.edit != nil {
						test.edit(o)
					}
				})
				client := new(udpClient)
				refuseTwice(r, client)
				r.wantStrikes("192.0.2.1:514", 0, upstream.Down)
				test.send(r, client)
				synctest.Wait()
				r.wantStrikes("192.0.2.1:514", 0, upstream.Down)
				r.wantLines("backend recovered", 0)
			})
		})
	}
}

// An answer ends the state at once, and the timer with it.
func TestAnswerStopsTheTimerOfSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:514"})
		client := new(udpClient)
		refuseTwice(r, client)
		r.deliver(1, client, "question")
		r.engine.socket(r.engine.opened).answer("answer")
		r.wantStrikes("192.0.2.1:514", 0, upstream.Up)
		if s := r.session(1); s.extras.taken != nil {
			t.Error("the timer runs")
		}
		r.session(1).end("test")
	})
}
