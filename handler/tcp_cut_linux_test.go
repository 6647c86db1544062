package handler

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// A relay that is cut while its search ends with a connection is not counted as
// served: nothing would count its end.
func TestCutBeforeFoundLeavesNoActiveRelay(t *testing.T) {
	relaytest.NoLeaks(t)
	server := serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{server.String()}, func(o *Options) { o.TCP = nil })
	near, far := relaytest.TCPPair(t)
	relay := &tcpRelay{relay: r.relay, client: far.RemoteAddr(), local: far.LocalAddr()}
	if r.service.enter(relay, false) != nil {
		t.Fatal("not admitted")
	}
	relay.setMover(stream.NewMover(plainClient(far), relay, r.relay.wheel))
	o, err := relay.find(context.Background(), nil)
	relaytest.Check(t, err)
	relay.cut(stream.Shutdown)
	relay.mover.Carry(o.conn, relay.found(o, time.Now()))
	wantEnding(t, "the client", near, "RST")
	if use := r.service.Stats(time.Now()).Backends[0].Use[upstream.TCP]; use.Active != 0 {
		t.Errorf("%d relays are active", use.Active)
	}
	if tcp, _ := r.service.Active(); tcp != 0 {
		t.Errorf("%d relays are in the list", tcp)
	}
}

// The end of a search that was cut is not a refusal, even if the goroutine of the
// search ends the relay before the one that cuts it.
func TestSearchThatWasCutIsNoRefusal(t *testing.T) {
	relaytest.NoLeaks(t)
	silent := newSilentTCP(t, lo(t, 1)+":0")
	r := newRig(t, []string{silent.String()}, func(o *Options) { o.TCP = nil })
	near, far := relaytest.TCPPair(t)
	relay := &tcpRelay{relay: r.relay, client: far.RemoteAddr(), local: far.LocalAddr()}
	if r.service.enter(relay, false) != nil {
		t.Fatal("not admitted")
	}
	relay.setMover(stream.NewMover(plainClient(far), relay, r.relay.wheel))
	served := make(chan struct{})
	go func() { // ends with the search
		defer close(served)
		relay.serve(context.Background(), nil)
	}()
	r.waitSearching()
	relay.mu.Lock() // the first half of cut
	relay.search.cancel(cutError{stream.Shutdown})
	relay.mu.Unlock()
	relaytest.Receive(t, "the end of the search", served)
	wantEnding(t, "the client", near, "RST")
	r.wantReasons(stream.Shutdown)
	r.wantLines("client refused", 0)
}

// slowMover takes its time to end a relay.
type slowMover struct{ stream.Mover }

func (slowMover) Cut(stream.Reason) {}

// A relay that was refused and is cut before its end is reported has the error of its search
// in the logs.
func TestCutAfterRefusal(t *testing.T) {
	var lines *observer.ObservedLogs
	r := newRig(t, []string{"192.0.2.1:80"}, func(o *Options) { lines = accessLog(o) })
	client := net.TCPAddrFromAddrPort(udpKey(1).Client)
	relay := &tcpRelay{relay: r.relay, client: client, local: client}
	if r.service.enter(relay, false) != nil {
		t.Fatal("not admitted")
	}
	relay.setMover(slowMover{})
	relay.refuse(errRefused)
	relay.cut(stream.Shutdown)
	relay.Ended(stream.End{Reason: stream.RefusedNoBackend})
	wantAccess(t, lines, map[string]any{"reason": string(stream.RefusedNoBackend), "error": errRefused.Error()})
}
