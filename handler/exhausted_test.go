//go:build unix

package handler

import (
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// A process without descriptors refuses after a moment, with a line and no
// strike, and serves again once there are some. It is a process of its own.
func TestOutOfDescriptors(t *testing.T) {
	if !alone(t) {
		return
	}
	noLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	hasty := newRig(t, []string{live.String()}, func(o *Options) { o.ConnectTimeout = 100 * time.Millisecond })
	patient := newRig(t, []string{live.String()})
	hastyNear, hastyFar := tcpPair(t)
	patientNear, patientFar := tcpPair(t)

	var before syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	none := before
	none.Cur = 3 // all of them are taken
	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)

	patient.serve(t.Context(), plain(patientFar))
	done := hasty.serve(t.Context(), plain(hastyFar))
	wantEnding(t, "the client", hastyNear, "RST")
	receiveFrom(t, "the end", done)
	hasty.wantLines("client refused", 1, "out of descriptors, memory or ports", 1,
		"backend failed, first strike", 0, "attempt failed", 0, "attempt not counted", 0)
	if s := hasty.status(live.String(), upstream.TCP); s.Failed != 0 {
		t.Errorf("the backend is blamed: %+v", s)
	}

	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before))
	hear(t, patientNear, "live")
	patient.wantLines("client refused", 0, "backend failed, first strike", 0)
	again, _ := hasty.client()
	hear(t, again, "live")
}

// What this machine cannot reach is no fault of the backend's.
func TestUnreachableForUs(t *testing.T) {
	noLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	broadcast := hostPort("255.255.255.255", live.String())

	beside := newRig(t, []string{hostPort("a.test", live.String())})
	beside.resolver.set("a.test", addrsAnswer("255.255.255.255", "127.0.0.1"))
	ann, _ := beside.client()
	hear(t, ann, "live")

	before := newRig(t, []string{broadcast, live.String()})
	bob, _ := before.client()
	hear(t, bob, "live")
	before.wantLines("attempt not counted", 1, "backend failed, first strike", 0, "backend order changed", 0)
	if s := before.status(broadcast, upstream.TCP); s.Failed != 0 || s.State != upstream.Up {
		t.Errorf("the backend is blamed: %+v", s)
	}

	alone := newRig(t, []string{broadcast})
	cid, _ := alone.client()
	wantEnding(t, "cid", cid, "RST")
	alone.wantLines("all backends unavailable", 0, "backend failed, first strike", 0)
}
