//go:build unix

package handler

import (
	"io"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// A process without free descriptors retries within the connect timeout, then
// refuses the client without a strike. It serves again once descriptors are free.
func TestOutOfDescriptors(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	relaytest.NoLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	hasty := newRig(t, []string{live.String()}, func(o *Options) { o.ConnectTimeout = 100 * time.Millisecond })
	patient := newRig(t, []string{live.String()})
	hastyNear, hastyFar := relaytest.TCPPair(t)
	patientNear, patientFar := relaytest.TCPPair(t)

	netio.HasDescriptor()                       // the reserve depends on the limit at the first use
	restore := relaytest.LimitDescriptors(t, 3) // more are open: no descriptor is free

	patient.serve(t.Context(), plainClient(patientFar))
	done := hasty.serve(t.Context(), plainClient(hastyFar))
	wantEnding(t, "the client", hastyNear, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	hasty.wantLines("client refused", 1, "out of descriptors, memory or ports", 1,
		"backend failed, first strike", 0, "attempt failed", 0, "attempt not counted", 0)
	if s := hasty.status(live.String(), upstream.TCP); s.Failed != 0 {
		t.Errorf("the failure counts against the backend: %+v", s)
	}

	restore()
	relaytest.WantRead(t, patientNear, "live")
	patient.wantLines("client refused", 0, "backend failed, first strike", 0)
	// On a busy machine its timeout may be too short, now and then.
	relaytest.Eventually(t, "a client of the hasty relay that is served", func() bool {
		again, _ := hasty.client()
		got, _ := io.ReadAll(io.LimitReader(again, 4))
		return string(got) == "live"
	})
}

// A backend that this machine has no way to reach gets no strike.
func TestLocallyUnreachable(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	broadcast := hostPort("255.255.255.255", live.String())

	withOther := newRig(t, []string{hostPort("a.test", live.String())})
	withOther.resolver.set("a.test", addrsAnswer("255.255.255.255", "127.0.0.1"))
	ann, _ := withOther.client()
	relaytest.WantRead(t, ann, "live")

	first := newRig(t, []string{broadcast, live.String()})
	bob, _ := first.client()
	relaytest.WantRead(t, bob, "live")
	first.wantLines("attempt not counted", 1, "backend failed, first strike", 0, "backend order changed", 0)
	if s := first.status(broadcast, upstream.TCP); s.Failed != 0 || s.State != upstream.Up {
		t.Errorf("the failure counts against the backend: %+v", s)
	}

	only := newRig(t, []string{broadcast})
	cid, _ := only.client()
	wantEnding(t, "cid", cid, "RST")
	only.wantLines("all backends unavailable", 0, "backend failed, first strike", 0)
}
