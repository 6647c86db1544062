package handler

import (
	"net"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A reset that follows the FIN of the same side is noticed at once, though
// nothing is read from there any more and nothing is written.
func TestResetAfterAFIN(t *testing.T) {
	for _, side := range []string{"client", "backend"} {
		t.Run(side, func(t *testing.T) {
			r, client, backend, done := established(t)
			goes, stays, why := client, backend, clientReset
			if side == "backend" {
				goes, stays, why = backend, client, backendReset
			}
			check(t, goes.CloseWrite())
			wantEnding(t, "the other", stays, "FIN")
			say(t, stays, "still here")
			hear(t, goes, "still here")
			resetNow(t, goes)
			receiveFrom(t, "the end", done)
			r.wantReasons(why)
			wantReset(t, stays)
		})
	}
}

// So is one that comes while the way from there is blocked, so that its bytes
// are not read to the end.
func TestResetWhileBlocked(t *testing.T) {
	for _, side := range []string{"client", "backend"} {
		t.Run(side, func(t *testing.T) {
			r, client, backend, done := established(t)
			goes, why := client, clientReset
			if side == "backend" {
				goes, why = backend, backendReset
			}
			sendUntilFull(t, goes)
			resetNow(t, goes)
			receiveFrom(t, "the end", done)
			r.wantReasons(why)
			if side == "client" {
				wantEnding(t, "the backend", backend, "RST")
			} else {
				wantEnding(t, "the client", client, "RST")
			}
		})
	}
}

// And one of the side that does not read.
func TestResetByThePeerThatBlocks(t *testing.T) {
	r, client, backend, done := established(t)
	sendUntilFull(t, client)
	resetNow(t, backend)
	receiveFrom(t, "the end", done)
	r.wantReasons(backendReset)
	wantReset(t, client)
}

// An end that comes after all bytes of a blocked way is passed on after them.
func TestFINBehindABlockedWay(t *testing.T) {
	r, client, backend, done := established(t)
	relaytest.Check(t, receiveFrom(t, "all bytes", relaytest.Transfer(client, backend, 16<<20, true)))
	check(t, backend.CloseWrite())
	wantEnding(t, "the client", client, "FIN")
	receiveFrom(t, "the end", done)
	r.wantEnd(clientClosed, 16<<20, 0)
}

// wantReset checks that a connection whose peer had finished before is reset,
// which a read would not show.
func wantReset(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	eventually(t, "the reset", func() bool {
		check(t, conn.SetWriteDeadline(time.Now().Add(limit)))
		_, err := conn.Write([]byte("x"))
		return err != nil
	})
}
