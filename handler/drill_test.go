package handler

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// startDrill starts a drill that a test ends.
func startDrill(t *testing.T, r *rig, backend string, fault Fault) {
	t.Helper()
	_, err := r.service.StartDrill(r.service.Pool.Backend(backend), fault, time.Minute, false, "10.0.0.7:1")
	relaytest.Check(t, err)
}

// wantReceipt checks the figures of a backend's drill.
func wantReceipt(t *testing.T, r *rig, backend string, strikes, moved, refused int) Receipt {
	t.Helper()
	got, ok := r.service.Drill(r.service.Pool.Backend(backend))
	if !ok || got.Strikes != strikes || got.Moved != moved || got.Refused != refused {
		t.Errorf("receipt %+v, want %d strikes, %d moved, %d refused", got, strikes, moved, refused)
	}
	return got
}

// The faults refuse and silent cost the backend its two strikes, without a
// connection to it. Its client is served by the next one, and relays from before
// continue. After the end of the drill the backend serves again.
func TestDrillRefusesAndIsSilent(t *testing.T) {
	for _, fault := range []Fault{FaultRefuse, FaultSilent} {
		relaytest.NoLeaks(t)
		first, second := serveTCP(t, "127.0.0.1:0", greet("first")), serveTCP(t, "127.0.0.1:0", greet("second"))
		r := newRig(t, []string{first.String(), second.String()}, func(o *Options) { o.ConnectTimeout = 50 * time.Millisecond })
		ann, _ := r.client()
		relaytest.WantRead(t, ann, "first")
		startDrill(t, r, first.String(), fault)
		bob, _ := r.client()
		relaytest.WantRead(t, bob, "second")
		if got := first.count(); got != 1 {
			t.Errorf("%s: %d connections to the drilled backend", fault, got)
		}
		line := r.line("backend failed, second strike").ContextMap()
		if text, _ := line["error"].(string); !strings.HasPrefix(text, "drill: ") {
			t.Errorf("%s: failed with %v", fault, line)
		}
		wantReceipt(t, r, first.String(), 2, 1, 0)
		if !r.service.StopDrill(r.service.Pool.Backend(first.String()), "10.0.0.7:2") {
			t.Error("there was no drill")
		}
		r.service.Reset("test")
		cid, _ := r.client()
		relaytest.WantRead(t, cid, "first")
		var sentences []string
		for _, e := range r.service.Journal.Entries() {
			if e.Kind == KindDrill || e.Kind == KindDrillEnd {
				_, sentence, _ := strings.Cut(e.String(), " ")
				sentences = append(sentences, sentence)
			}
		}
		if len(sentences) != 2 || sentences[0] != "drill: faults are injected into new relays to "+first.String()+" ("+string(fault)+" for 1m0s), requested by 10.0.0.7:1" ||
			!strings.HasPrefix(sentences[1], "drill ended: "+first.String()+" (2 strikes, 1 clients moved, the slowest served after ") {
			t.Errorf("%s: journal %q", fault, sentences)
		}
	}
}

// A drilled reset is passed on to the client, or rescued if it can be.
func TestDrillResets(t *testing.T) {
	for _, rescued := range []bool{false, true} {
		relaytest.NoLeaks(t)
		first, second := serveTCP(t, "127.0.0.1:0", echo), serveTCP(t, "127.0.0.1:0", echo)
		r := newRig(t, []string{first.String(), second.String()}, func(o *Options) {
			if rescued {
				rescuing(o)
			}
		})
		startDrill(t, r, first.String(), FaultReset)
		ann, _ := r.client()
		if !rescued {
			wantEnding(t, "ann", ann, "RST")
			if got := wantReceipt(t, r, first.String(), 0, 0, 0); got.Reset != 1 {
				t.Errorf("%d clients were reset, want 1", got.Reset)
			}
			continue
		}
		relaytest.Write(t, ann, "question")
		relaytest.WantRead(t, ann, "question")
		wantReceipt(t, r, first.String(), 2, 1, 0)
	}
}

// A slow backend serves its clients a second later. With hedge another one does.
func TestDrillIsSlow(t *testing.T) {
	for _, hedged := range []bool{false, true} {
		relaytest.NoLeaks(t)
		first, second := serveTCP(t, "127.0.0.1:0", greet("first")), serveTCP(t, "127.0.0.1:0", greet("second"))
		r := newRig(t, []string{first.String(), second.String()}, func(o *Options) {
			if hedged {
				o.Hedge = 20 * time.Millisecond
			}
		})
		startDrill(t, r, first.String(), FaultSlow)
		began := time.Now()
		ann, _ := r.client()
		if hedged {
			relaytest.WantRead(t, ann, "second")
			wantReceipt(t, r, first.String(), 0, 1, 0)
			continue
		}
		relaytest.WantRead(t, ann, "first")
		if took := time.Since(began); took < slowBy {
			t.Errorf("served after %s", took)
		}
	}
}

// A drill of the last available backend is refused unless it is forced. Its
// clients are refused then, and counted.
func TestDrillOfTheLastBackend(t *testing.T) {
	relaytest.NoLeaks(t)
	first, second := serveTCP(t, "127.0.0.1:0", echo), serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{first.String(), second.String()})
	startDrill(t, r, second.String(), FaultRefuse)
	b := r.service.Pool.Backend(first.String())
	if _, err := r.service.StartDrill(b, FaultRefuse, time.Minute, false, "test"); !errors.Is(err, ErrLastBackend) {
		t.Errorf("started with %v", err)
	}
	_, err := r.service.StartDrill(b, FaultRefuse, time.Minute, true, "test")
	relaytest.Check(t, err)
	ann, _ := r.client()
	wantEnding(t, "ann", ann, "RST")
	r.line("client refused")
	wantReceipt(t, r, second.String(), 2, 0, 1) // the fault that the client has met last
}

// A drill ends by itself, by another one on the same backend, and with the service.
func TestDrillEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
		b := r.service.Pool.Undrained()[0]
		startDrill(t, r.rig, b.Text, FaultRefuse)
		startDrill(t, r.rig, b.Text, FaultSilent)
		if got := r.service.drills.active.Load(); got != 1 {
			t.Errorf("%d drills", got)
		}
		time.Sleep(time.Minute + time.Second)
		got, _ := r.service.Drill(b)
		if got.Running || got.Fault != FaultSilent || got.Ends.Sub(got.Began) != time.Minute || r.service.drills.active.Load() != 0 {
			t.Errorf("after its end: %+v", got)
		}
		if r.service.StopDrill(b, "test") {
			t.Error("stopped twice")
		}
		startDrill(t, r.rig, b.Text, FaultSilent)
		r.service.Close()
		if got, _ := r.service.Drill(b); got.Running {
			t.Error("it outlives the service")
		}
		if _, err := r.service.StartDrill(b, FaultSilent, time.Minute, true, "test"); err == nil {
			t.Error("started after the end of the service")
		}
	})
}

// The faults on UDP: a refusal is a failed attempt, nothing is sent to a silent
// backend, and a slow one gets its datagrams a second later.
func TestDrillOfSessions(t *testing.T) {
	t.Run("refuse", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
			startDrill(t, r.rig, "192.0.2.1:53", FaultRefuse)
			r.deliver(1, new(udpClient), "a")
			r.engine.wants(t, "1 open 192.0.2.2:53", "1 < a")
			r.engine.socket(1).answer("A")
			wantReceipt(t, r.rig, "192.0.2.1:53", 2, 1, 0)
		})
	})
	t.Run("silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"}, func(o *Options) { o.UDPReplyTimeout = time.Second })
			startDrill(t, r.rig, "192.0.2.1:53", FaultSilent)
			r.deliver(1, new(udpClient), "a")
			time.Sleep(2*time.Second + time.Millisecond)
			synctest.Wait()
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 close", "2 open 192.0.2.1:53", "2 close", "3 open 192.0.2.2:53", "3 < a")
			r.engine.socket(3).answer("A")
			if got := wantReceipt(t, r.rig, "192.0.2.1:53", 2, 1, 0); got.Slowest < 2*time.Second {
				t.Errorf("the slowest was served after %s", got.Slowest)
			}
		})
	})
	t.Run("silent until its end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
			startDrill(t, r.rig, "192.0.2.1:53", FaultSilent)
			r.deliver(1, new(udpClient), "a")
			r.service.StopDrill(r.service.Pool.Undrained()[0], "test")
			r.deliver(1, new(udpClient), "b")
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 < b")
		})
	})
	t.Run("slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
			startDrill(t, r.rig, "192.0.2.1:53", FaultSlow)
			r.deliver(1, new(udpClient), "a")
			synctest.Wait()
			r.engine.wants(t)
			time.Sleep(slowBy)
			synctest.Wait()
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		})
	})
	t.Run("all refuse", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"})
			_, err := r.service.StartDrill(r.service.Pool.Undrained()[0], FaultRefuse, time.Minute, true, "test")
			relaytest.Check(t, err)
			r.deliver(1, new(udpClient), "a")
			wantReceipt(t, r.rig, "192.0.2.1:53", 2, 0, 1)
			if s := r.status("192.0.2.1:53", upstream.UDP); s.State != upstream.Down {
				t.Errorf("the backend is %s", s.State)
			}
		})
	})
}
