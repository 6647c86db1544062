package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fakeServer answers after some time with an address or an error.
type fakeServer struct {
	takes time.Duration
	addr  string
	err   error
}

const silent = time.Hour

func TestServersInOrder(t *testing.T) {
	refused := &net.DNSError{Err: "server misbehaving", Server: "192.0.2.53:53"}
	unreachable := errors.New("network is unreachable")
	notFound := &net.DNSError{Err: "no such host", Server: "192.0.2.53:53", IsNotFound: true}
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		servers []fakeServer
		queried []time.Duration // when each server is queried
		want    string          // address or error
		takes   time.Duration
	}{
		"first answers": {
			[]fakeServer{{takes: 999 * ms, addr: "192.0.2.1"}, {addr: "192.0.2.2"}},
			[]time.Duration{0}, "192.0.2.1", 999 * ms},
		"first fails": {
			[]fakeServer{{takes: 10 * ms, err: refused}, {takes: 10 * ms, addr: "192.0.2.2"}, {addr: "192.0.2.3"}},
			[]time.Duration{0, 10 * ms}, "192.0.2.2", 20 * ms},
		"first silent": {
			[]fakeServer{{takes: silent}, {takes: 10 * ms, addr: "192.0.2.2"}, {addr: "192.0.2.3"}},
			[]time.Duration{0, 1000 * ms}, "192.0.2.2", 1010 * ms},
		"first slow": {
			[]fakeServer{{takes: 1500 * ms, addr: "192.0.2.1"}, {takes: silent}},
			[]time.Duration{0, 1000 * ms}, "192.0.2.1", 1500 * ms},
		"two silent": {
			[]fakeServer{{takes: silent}, {takes: silent}, {takes: 10 * ms, addr: "192.0.2.3"}},
			[]time.Duration{0, 1000 * ms, 2000 * ms}, "192.0.2.3", 2010 * ms},
		"second fails while the first is silent": {
			[]fakeServer{{takes: silent}, {takes: 10 * ms, err: refused}, {takes: 10 * ms, addr: "192.0.2.3"}},
			[]time.Duration{0, 1000 * ms, 1010 * ms}, "192.0.2.3", 1020 * ms},
		"head start begins at the failure": {
			[]fakeServer{{takes: 900 * ms, err: refused}, {takes: 900 * ms, addr: "192.0.2.2"}, {addr: "192.0.2.3"}},
			[]time.Duration{0, 900 * ms}, "192.0.2.2", 1800 * ms},
		"no such host": {
			[]fakeServer{{takes: 10 * ms, err: notFound}, {addr: "192.0.2.2"}},
			[]time.Duration{0}, "lookup a.example: no such host (from 192.0.2.53:53)", 10 * ms},
		"all fail": {
			[]fakeServer{{takes: 10 * ms, err: refused}, {takes: 10 * ms, err: unreachable}},
			[]time.Duration{0, 10 * ms},
			"lookup a.example: server misbehaving (from 192.0.2.53:53); network is unreachable", 20 * ms},
		"the last is silent": {
			[]fakeServer{{takes: 10 * ms, err: refused}, {takes: silent}},
			[]time.Duration{0, 10 * ms},
			"lookup a.example: server misbehaving (from 192.0.2.53:53); context deadline exceeded", flightTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				queried := make([]time.Duration, len(test.servers))
				for i := range queried {
					queried[i] = -1
				}
				list := newServerList(make([]netip.AddrPort, len(test.servers)))
				for i, s := range test.servers {
					list.lookups[i] = func(ctx context.Context, host string) ([]netip.Addr, error) {
						queried[i] = time.Since(start)
						select {
						case <-time.After(s.takes):
						case <-ctx.Done():
							return nil, ctx.Err()
						}
						if s.err != nil {
							return nil, s.err
						}
						return ips(s.addr), nil
					}
				}
				c := New(Config{Lookup: list.lookup})
				defer c.Close()
				answer, err := c.Lookup(t.Context(), "a.example", patience)
				elapsed(t, start, test.takes)
				if strings.HasPrefix(test.want, "lookup") {
					if err == nil || err.Error() != test.want {
						t.Errorf("error %v, want %s", err, test.want)
					}
				} else {
					wantAnswer(t, answer, err, false, test.want)
				}
				for i := range queried {
					want := time.Duration(-1)
					if i < len(test.queried) {
						want = test.queried[i]
					}
					if queried[i] != want {
						t.Errorf("server %d was queried at %v, want %v", i, queried[i], want)
					}
				}
			})
		})
	}
}

func TestErrorWrapsErrorsOfAllServers(t *testing.T) {
	refused := &net.DNSError{Err: "server misbehaving"}
	err := newLookupError("a.example", errors.Join(errDown, refused))
	var dnsErr *net.DNSError
	if !errors.As(err, &dnsErr) || dnsErr != refused || !errors.Is(err, errDown) {
		t.Errorf("error %v does not wrap its causes", err)
	}
}

func TestLookupWaitsForServerGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended []int
		server := func(i int, err error) func(context.Context, string) ([]netip.Addr, error) {
			return func(ctx context.Context, _ string) ([]netip.Addr, error) {
				if err == nil {
					<-ctx.Done()
					time.Sleep(time.Second) // returns late
				}
				ended = append(ended, i)
				return nil, err
			}
		}
		notFound := &net.DNSError{IsNotFound: true}
		list := &serverList{headStart: headStart}
		list.lookups = append(list.lookups, server(0, nil), server(1, notFound))
		if _, err := list.lookup(t.Context(), "a.example"); err != notFound {
			t.Errorf("error %v", err)
		}
		if !slices.Equal(ended, []int{1, 0}) {
			t.Errorf("servers returned in the order %v", ended)
		}
	})
}
