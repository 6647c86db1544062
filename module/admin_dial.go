package module

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/upstream"
)

// postTest dials all addresses of a backend now, and counts for nothing: no
// strike, no recovery. UDP is only tested where a health check says what to
// send, since silence is no answer.
func postTest(r *http.Request) (any, error) {
	s, b, err := requested(r)
	if err != nil {
		return nil, err
	}
	// Not with the request's end, which the admin server also sees after its
	// read timeout of ten seconds; a connect_timeout may be longer.
	return s.test().run(context.WithoutCancel(r.Context()), s, b), nil
}

// test is how a backend is tested: as the settings in force have it.
type test struct {
	timeout  time.Duration // of the lookup, and of each dial
	networks []upstream.Network
	check    handler.HealthCheck // what to send and expect over UDP
}

func (s *service) test() test {
	t := test{timeout: caddyfile.DefaultConnectTimeout, networks: []upstream.Network{upstream.TCP}}
	if g := s.current.Load(); g != nil {
		t.timeout = g.connectTimeout
		if g.check != nil {
			t.networks, t.check = g.check.Networks, *g.check
		}
	}
	return t
}

func (t test) run(ctx context.Context, s *service, b *upstream.Backend) api.Test {
	v := api.Test{Service: s.Name, Backend: b.Text, Dials: []api.TestedDial{}}
	addrs := []netip.Addr{b.IP}
	if !b.IP.IsValid() {
		var err error
		began := time.Now()
		lookup, cancel := context.WithTimeout(ctx, t.timeout)
		addrs, err = s.Lookup(lookup, b.Host, t.timeout)
		cancel()
		v.Lookup = milliseconds(time.Since(began))
		if err != nil {
			v.Error = err.Error()
			return v
		}
	}
	for _, n := range t.networks {
		for _, addr := range addrs {
			v.Dials = append(v.Dials, api.TestedDial{Network: n.String(), Address: netip.AddrPortFrom(addr, b.Port).String()})
		}
	}
	var dialling sync.WaitGroup
	for i := range v.Dials {
		dialling.Go(func() { t.dial(ctx, &v.Dials[i]) }) // ends with its timeout at the latest
	}
	dialling.Wait()
	v.OK = !slices.ContainsFunc(t.networks, func(n upstream.Network) bool {
		return !slices.ContainsFunc(v.Dials, func(d api.TestedDial) bool { return d.OK && d.Network == n.String() })
	})
	return v
}

func (t test) dial(ctx context.Context, d *api.TestedDial) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	began := time.Now()
	err := t.ask(ctx, d.Network, d.Address)
	d.Latency, d.OK = milliseconds(time.Since(began)), err == nil
	if err != nil {
		d.Error = err.Error()
	}
}

func (t test) ask(ctx context.Context, network, address string) error {
	dialer := net.Dialer{KeepAlive: -1} // it does not last
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset, which leaves no port in TIME_WAIT: there was nothing to lose
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends the waiting below
	defer stop()
	if _, err := conn.Write(t.check.Send); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("expected answer: %w", err)
		}
		if bytes.Contains(buf[:n], t.check.Expect) {
			return nil
		}
	}
}
