package handler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// suspect makes a backend of a rig a suspect.
func (r *rig) suspect(backend string, n upstream.Network) {
	r.t.Helper()
	if !r.service.Suspect(r.service.Pool.Backend(backend), n, "node far") {
		r.t.Fatalf("%s is no suspect", backend)
	}
}

// patient is a config in which a client would wait longer for a silent backend than a
// test may take.
func patient(o *Options) { o.ConnectTimeout = time.Hour }

// A client of a silent suspect is served within a second by the next backend, and the
// clients after it do not wait at all, although the suspect has no strike yet.
func TestClientsOfASilentSuspect(t *testing.T) {
	relaytest.NoLeaks(t)
	silent, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{silent.String(), live.String()}, patient)
	r.suspect(silent.String(), upstream.TCP)
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	for range 5 {
		bob, _ := r.client()
		relaytest.WantRead(t, bob, "live")
	}
	if got := r.service.Stats(time.Now()).Hedges; got != 1 {
		t.Errorf("%d clients waited for the suspect, want 1", got)
	}
	if got := dialling(); got != 1 {
		t.Errorf("%d attempts on the suspect, want 1", got)
	}
	r.wantLines("backend failed, first strike", 0, "backend order changed", 0)
	r.service.Close() // ends the attempt on the suspect
}

// The attempts on a suspect last as long as any, and only their failures demote it.
func TestSilentSuspectIsDemotedByItsOwnAttempts(t *testing.T) {
	relaytest.NoLeaks(t)
	silent, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{silent.String(), live.String()}, func(o *Options) { o.ConnectTimeout = suspectPatience + 200*time.Millisecond })
	r.suspect(silent.String(), upstream.TCP)
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	r.wantLines("backend failed, first strike", 0)
	r.line("backend order changed")
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1)
	if s := r.status(silent.String(), upstream.TCP); s.State != upstream.Down || s.Suspect {
		t.Errorf("the silent backend is %s, suspect: %v", s.State, s.Suspect)
	}
}

// A suspect that works serves its first client, which ends the suspicion. A claim of
// another node moves nothing.
func TestSuspectThatWorks(t *testing.T) {
	relaytest.NoLeaks(t)
	first, second := serveTCP(t, "127.0.0.1:0", greet("first")), serveTCP(t, "127.0.0.1:0", greet("second"))
	r := newRig(t, []string{first.String(), second.String()}, patient)
	for range 3 {
		r.suspect(first.String(), upstream.TCP)
		ann, _ := r.client()
		relaytest.WantRead(t, ann, "first")
		relaytest.Eventually(t, "the end of the suspicion", func() bool { return !r.status(first.String(), upstream.TCP).Suspect })
	}
	if second.count() != 0 {
		t.Errorf("%d clients went to the second backend", second.count())
	}
	r.wantLines("backend failed, first strike", 0, "backend order changed", 0)
}

// A slow suspect loses the client that tried it, and keeps its place.
func TestSlowSuspectKeepsItsPlace(t *testing.T) {
	relaytest.NoLeaks(t)
	slow, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{slow.String(), live.String()}, patient)
	r.suspect(slow.String(), upstream.TCP)
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	slow.wake(greet("slow"))
	relaytest.Eventually(t, "the end of the suspicion", func() bool { return !r.status(slow.String(), upstream.TCP).Suspect })
	bob, _ := r.client()
	relaytest.WantRead(t, bob, "slow")
	r.wantLines("backend failed, first strike", 0, "backend order changed", 0)
}

// With hedge, the client that tries a suspect dials the next backend at once.
func TestHedgedSuspect(t *testing.T) {
	relaytest.NoLeaks(t)
	silent, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{silent.String(), live.String()}, patient, func(o *Options) { o.Hedge = time.Hour })
	r.suspect(silent.String(), upstream.TCP)
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	r.service.Close() // ends the attempt on the suspect
}

// A client that leaves ends its trial: the next one tries the suspect.
func TestTrialWithoutResult(t *testing.T) {
	relaytest.NoLeaks(t)
	slow, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{slow.String(), live.String()}, patient, func(o *Options) { o.Hedge = time.Hour })
	// Without a companion, the client would wait for the suspect.
	b := r.service.Pool.Backend(live.String())
	if _, err := r.service.SetDrained(b, true, "test"); err != nil {
		t.Fatal(err)
	}
	r.suspect(slow.String(), upstream.TCP)
	ann, done := r.client()
	waitForSYN(t, slow.String())
	relaytest.Check(t, ann.SetLinger(0))
	relaytest.Check(t, ann.Close())
	relaytest.Receive(t, "the end of the relay", done)
	if s := r.status(slow.String(), upstream.TCP); !s.Suspect {
		t.Error("the suspicion has ended without a result")
	}
	if _, err := r.service.SetDrained(b, false, "test"); err != nil {
		t.Fatal(err)
	}
	walk := r.service.Pool.Walk(upstream.TCP)
	if a, _ := walk.Next(time.Now().Add(time.Minute)); a.Backend.Text != slow.String() {
		t.Errorf("the next client tries %s", a.Backend.Text)
	}
}

// A suspect that refuses is demoted by the first client.
func TestRefusingSuspect(t *testing.T) {
	relaytest.NoLeaks(t)
	dead, live := deadTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{dead, live.String()}, patient)
	r.suspect(dead, upstream.TCP)
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1)
}

// Of the UDP sessions, one waits for a silent suspect, and the others do not.
func TestSilentUDPSuspect(t *testing.T) {
	r := newUDPRig(t, []string{"10.0.0.1:53", "10.0.0.2:53"}, func(o *Options) { o.UDPReplyTimeout = time.Hour })
	r.suspect("10.0.0.1:53", upstream.UDP)
	var ann udpClient
	r.deliver(1, &ann, "one")
	walk := r.service.Pool.Walk(upstream.UDP)
	if a, _ := walk.Next(time.Now().Add(suspectPatience)); a.Backend.Text != "10.0.0.2:53" {
		t.Errorf("later sessions begin with %s", a.Backend.Text)
	}
	r.engine.socket(1).answer("answer")
	ann.wants(t, "answer")
	if s := r.status("10.0.0.1:53", upstream.UDP); s.Suspect {
		t.Error("an answer has not ended the suspicion")
	}
}

// The timer for companions fires once for a suspect if hedge is off. It does not keep a
// processor busy while a client waits for a suspect without an alternative.
func TestCompanionTimerOfASuspectFiresOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for hedge, want := range map[time.Duration]bool{0: false, time.Minute: true} {
			a := &attempts{relay: &Relay{opts: Options{Hedge: hedge}}}
			timer := time.NewTimer(0)
			<-timer.C
			a.hedgeTimerFired(timer)
			time.Sleep(time.Hour)
			select {
			case <-timer.C:
				if !want {
					t.Error("the timer fires again without hedge")
				}
			default:
				if want {
					t.Errorf("the timer does not fire again with hedge %s", hedge)
				}
			}
		}
	})
}

// While a client waits for a silent suspect, a companion that fails is replaced at
// once by the next one.
func TestFailedCompanionOfASuspectIsReplaced(t *testing.T) {
	for name, hedge := range map[string]time.Duration{"off": 0, "an hour": time.Hour} {
		t.Run("hedge "+name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			silent, dead, live := newSilentTCP(t, "127.0.0.1:0"), deadTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
			r := newRig(t, []string{silent.String(), dead, live.String()}, patient, func(o *Options) { o.Hedge = hedge })
			r.suspect(silent.String(), upstream.TCP)
			ann, _ := r.client()
			relaytest.WantRead(t, ann, "live")
			r.service.Close() // ends the attempt on the suspect
		})
	}
}

// A long hedge delays no client of a suspect: neither the one that tries it, nor those
// that come before it has a companion.
func TestLongHedgeOfASuspect(t *testing.T) {
	relaytest.NoLeaks(t)
	silent, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{silent.String(), live.String()}, patient, func(o *Options) { o.Hedge = time.Hour })
	r.suspect(silent.String(), upstream.TCP)
	for range 3 {
		client, _ := r.client()
		relaytest.WantRead(t, client, "live")
	}
	r.service.Close() // ends the attempt on the suspect
}

// A UDP session that ends without a result ends its trial: the next one tries the
// suspect.
func TestUDPTrialWithoutResult(t *testing.T) {
	r := newUDPRig(t, []string{"10.0.0.1:53", "10.0.0.2:53"}, func(o *Options) { o.UDPReplyTimeout = time.Hour })
	r.suspect("10.0.0.1:53", upstream.UDP)
	var ann udpClient
	r.deliver(1, &ann, "one")
	r.session(1).end(evictedForRoom)
	walk := r.service.Pool.Walk(upstream.UDP)
	if a, _ := walk.Next(time.Now().Add(time.Minute)); a.Backend.Text != "10.0.0.1:53" {
		t.Errorf("the next session begins with %s", a.Backend.Text)
	}
}
