package dnsclient

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// fakeServer answers after some time with a reply code or an error.
type fakeServer struct {
	name  string
	takes time.Duration
	rcode int
	err   error

	start   time.Time
	queried time.Duration // when it was queried; -1: not
}

func (s *fakeServer) String() string { return s.name }
func (s *fakeServer) close()         {}

func (s *fakeServer) exchange(ctx context.Context, query []byte) (reply, error) {
	s.queried = time.Since(s.start)
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	}
	msg := emptyAnswer(query)
	msg[3] |= byte(s.rcode)
	return reply{msg: msg}, s.err
}

const silent = time.Hour

func TestServersInOrder(t *testing.T) {
	unreachable := errors.New("network is unreachable")
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		servers []fakeServer
		queried []time.Duration // when each server is queried
		want    string          // the server that answers, or errors
		takes   time.Duration
	}{
		"first answers": {
			[]fakeServer{{takes: 199 * ms}, {}},
			[]time.Duration{0}, "s0", 199 * ms},
		"first fails": {
			[]fakeServer{{takes: 10 * ms, rcode: dns.RcodeRefused}, {takes: 10 * ms}, {}},
			[]time.Duration{0, 10 * ms}, "s1", 20 * ms},
		"first dead": {
			[]fakeServer{{takes: silent}, {takes: 10 * ms}, {}},
			[]time.Duration{0, 200 * ms}, "s1", 210 * ms},
		"first slow": {
			[]fakeServer{{takes: 300 * ms}, {takes: silent}},
			[]time.Duration{0, 200 * ms}, "s0", 300 * ms},
		"two silent": {
			[]fakeServer{{takes: silent}, {takes: silent}, {takes: 10 * ms}},
			[]time.Duration{0, 200 * ms, 400 * ms}, "s2", 410 * ms},
		"second fails while the first is silent": {
			[]fakeServer{{takes: silent}, {takes: 10 * ms, err: unreachable}, {takes: 10 * ms}},
			[]time.Duration{0, 200 * ms, 210 * ms}, "s2", 220 * ms},
		"head start begins at the failure": {
			[]fakeServer{{takes: 150 * ms, err: unreachable}, {takes: 150 * ms}, {}},
			[]time.Duration{0, 150 * ms}, "s1", 300 * ms},
		"no such host": {
			[]fakeServer{{takes: 10 * ms, rcode: dns.RcodeNameError}, {}},
			[]time.Duration{0}, "s0", 10 * ms},
		"all fail": {
			[]fakeServer{{takes: 10 * ms, rcode: dns.RcodeServerFailure}, {takes: 10 * ms, err: unreachable}},
			[]time.Duration{0, 10 * ms},
			"lookup  on s0: server misbehaving: SERVFAIL\nlookup  on s1: network is unreachable", 20 * ms},
		"the last is silent": {
			[]fakeServer{{takes: 10 * ms, rcode: dns.RcodeRefused}, {takes: silent}},
			[]time.Duration{0, 10 * ms},
			"lookup  on s0: server misbehaving: REFUSED\nlookup  on s1: no answer in time", 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var servers []exchanger
				for i := range test.servers {
					s := &test.servers[i]
					s.name, s.start, s.queried = "s"+string(rune('0'+i)), start, -1
					servers = append(servers, s)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				query, err := new(dns.Msg).SetQuestion("a.example.", dns.TypeA).Pack()
				if err != nil {
					t.Fatal(err)
				}
				r, err := race(ctx, servers, query)
				got := r.server
				if err != nil {
					got = err.Error()
				}
				if got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
				if took := time.Since(start); took != test.takes {
					t.Errorf("took %v, want %v", took, test.takes)
				}
				var queried []time.Duration
				for _, s := range test.servers {
					if s.queried >= 0 {
						queried = append(queried, s.queried)
					}
				}
				if !slices.Equal(queried, test.queried) {
					t.Errorf("queried at %v, want %v", queried, test.queried)
				}
				if strings.Contains(test.want, "no answer") && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v does not wrap that of the deadline", err)
				}
			})
		})
	}
}
