package listen

import (
	"net"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A config that lists an address twice gets an error. Other configs are not
// affected.
func TestDuplicateOwner(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	opts, other := quiet(), quiet()
	opts.Owner, other.Owner = new(int), new(int)
	openers := map[string]func(Options) (net.Listener, error){
		"tcp": func(o Options) (net.Listener, error) { return s.TCP(at, o) },
		"udp": func(o Options) (net.Listener, error) { return s.UDP(at, o) },
	}
	for network, open := range openers {
		first, err := open(opts)
		relaytest.Check(t, err)
		_, err = open(opts)
		if err == nil || !strings.Contains(err.Error(), at.String()) || !strings.Contains(err.Error(), "more than once") {
			t.Errorf("%s: got %v", network, err)
		}
		second, err := open(other)
		relaytest.Check(t, err)
		relaytest.Check(t, first.Close())
		again, err := open(opts)
		relaytest.Check(t, err)
		relaytest.Check(t, again.Close())
		relaytest.Check(t, second.Close())
	}
	wantNoSockets(t, s)
}

// The log is that of the latest open listener. Once none is open, it is that of the
// last one.
func TestLatestLog(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	one, two := zap.NewNop(), zap.NewNop()
	first, err := s.TCP(at, Options{Log: one})
	relaytest.Check(t, err)
	second, err := s.TCP(at, Options{Log: two})
	relaytest.Check(t, err)
	shared := &first.socket.listeners
	if shared.log() != two {
		t.Error("not the log of the latest listener")
	}
	relaytest.Check(t, second.Close())
	if shared.log() != one {
		t.Error("not the log of the remaining listener")
	}
	relaytest.Check(t, first.Close())
	if shared.log() != one {
		t.Error("not the log of the last listener")
	}
}
