package handler

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// serveHTTP serves responses written as text, one for each connection. It returns
// the requests that it gets.
func serveHTTP(t *testing.T, response string) (*tcpServer, <-chan *http.Request) {
	requests := make(chan *http.Request, 4)
	return serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		requests <- request
		_, _ = io.WriteString(conn, strings.ReplaceAll(response, "\n", "\r\n"))
		_, _ = io.Copy(io.Discard, conn) // the check closes the connection
	}), requests
}

func TestHTTPProbe(t *testing.T) {
	const body = "Content-Length: 6\n\nleader"
	for name, test := range map[string]struct {
		status   []StatusRange
		expect   string
		response string
		want     string // part of the error; "": none
	}{
		"success":                   {nil, "", "HTTP/1.1 200 OK\n" + body, ""},
		"any success":               {nil, "", "HTTP/1.1 204 No Content\n\n", ""},
		"HTTP/1.0":                  {nil, "", "HTTP/1.0 200 OK\n\n", ""},
		"not successful":            {nil, "", "HTTP/1.1 503 Service Unavailable\n" + body, "status 503, want 200-299"},
		"a redirect is not success": {nil, "", "HTTP/1.1 302 Found\nLocation: http://127.0.0.1:1/\n\n", "status 302, want 200-299"},
		"chosen status":             {[]StatusRange{{302, 302}, {400, 499}}, "", "HTTP/1.1 404 Not Found\n" + body, ""},
		"another status":            {[]StatusRange{{302, 302}, {400, 499}}, "", "HTTP/1.1 200 OK\n" + body, "status 200, want 302, 400-499"},
		"after an early hint":       {nil, "", "HTTP/1.1 103 Early Hints\n\nHTTP/1.1 200 OK\n" + body, ""},
		"body":                      {nil, "lead", "HTTP/1.1 200 OK\n" + body, ""},
		"wrong body":                {nil, "replica", "HTTP/1.1 200 OK\n" + body, "expected answer not in the first 6 bytes of the body"},
		"body beyond the limit":     {nil, "end", "HTTP/1.1 200 OK\n\n" + strings.Repeat("-", 64<<10) + "end", "not in the first 65536 bytes"},
		"not HTTP":                  {nil, "", "220 mail\n", "the answer is not HTTP"},
		"endless header":            {nil, "", "HTTP/1.1 200 OK\n" + strings.Repeat("A: b\n", 64<<10), "exceeded"},
		"silence":                   {nil, "", "", "health check timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			server, requests := serveHTTP(t, test.response)
			check := HealthCheck{Networks: onTCP, HTTP: &HTTPProbe{Path: "/primary?lag=10", Status: test.status}}
			if test.expect != "" {
				check.Expect = [][]byte{[]byte(test.expect)}
			}
			if test.response == "" {
				check.Timeout = 100 * time.Millisecond
			}
			r := newRig(t, []string{server.String()})
			r.prober(check, server.String())()
			request := relaytest.Receive(t, "the request", requests)
			if request.Method != "GET" || request.RequestURI != "/primary?lag=10" || request.Host != server.String() || !request.Close {
				t.Errorf("request %s %s, Host %s, Connection: close %v", request.Method, request.RequestURI, request.Host, request.Close)
			}
			got := r.status(server.String(), upstream.TCP)
			switch failed := got.LastFailure.Error; {
			case test.want == "" && (got.State != upstream.Up || got.Succeeded != 1):
				t.Errorf("%+v", got)
			case test.want != "" && (got.State != upstream.Down || !strings.Contains(failed, test.want)):
				t.Errorf("%s, %q, want the error %q", got.State, failed, test.want)
			}
		})
	}
}

// Another port decides about a UDP backend, with a Host of its own.
func TestHTTPProbeOfUDP(t *testing.T) {
	relaytest.NoLeaks(t)
	server, requests := serveHTTP(t, "HTTP/1.1 200 OK\n\n")
	port := netip.MustParseAddrPort(server.String()).Port()
	r := newRig(t, []string{deadAddr})
	host, _, _ := net.SplitHostPort(deadAddr)
	if want := fmt.Sprintf("%s:%d", host, port); want != server.String() {
		t.Fatalf("%s has another address than the server %s", deadAddr, server)
	}
	r.demote(deadAddr, upstream.UDP)
	r.prober(HealthCheck{Networks: onUDP, Port: port, HTTP: &HTTPProbe{Path: "/", Host: "node.test"}}, deadAddr)()
	if got := relaytest.Receive(t, "the request", requests).Host; got != "node.test" {
		t.Errorf("Host %q", got)
	}
	r.wantState(deadAddr, upstream.UDP, upstream.Up)
	if line := r.line("backend recovered").ContextMap(); line["address"] != server.String() || line["network"] != "udp" {
		t.Errorf("logged as %v, want the probed address %s", line, server)
	}
	r.wantState(deadAddr, upstream.TCP, upstream.Up)
}

// The header of the PROXY protocol precedes every kind of probe.
func TestHealthProxyProtocol(t *testing.T) {
	type seen struct {
		header *proxyproto.Header
		rest   string
	}
	for name, check := range map[string]HealthCheck{
		"connect": {},
		"send":    {Send: []byte("PING")},
		"expect":  {Expect: [][]byte{[]byte("220")}},
		"http":    {HTTP: &HTTPProbe{Path: "/"}},
	} {
		for _, version := range []ProxyProtocol{ProxyProtocolV1, ProxyProtocolV2} {
			t.Run(fmt.Sprint(name, " v", version), func(t *testing.T) {
				relaytest.NoLeaks(t)
				conns := make(chan seen, 1)
				server := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
					in := bufio.NewReader(conn)
					h, err := proxyproto.Read(in)
					if err != nil {
						t.Error(err)
						return
					}
					rest := ""
					switch {
					case check.HTTP != nil:
						rest, _ = in.ReadString('\n')
						_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
					case check.exchanges():
						rest = string(readSome(in, len(check.Send)))
						_, _ = io.WriteString(conn, "220 mail")
					}
					conns <- seen{h, rest}
				})
				r := newRig(t, []string{server.String()})
				check.Networks, check.PROXY = onTCP, version
				r.prober(check, server.String())()
				got := relaytest.Receive(t, "the header", conns)
				if got.header.Version != byte(version) || got.header.TransportProtocol != proxyproto.UNSPEC || version == ProxyProtocolV2 && !got.header.Command.IsLocal() {
					t.Errorf("header %+v", got.header)
				}
				if want := map[string]string{"send": "PING", "http": "GET / HTTP/1.1\r\n"}[name]; got.rest != want {
					t.Errorf("then %q, want %q", got.rest, want)
				}
				r.wantState(server.String(), upstream.TCP, upstream.Up)
				if n := r.status(server.String(), upstream.TCP).Failed; n != 0 {
					t.Errorf("%d failed probes", n)
				}
			})
		}
	}
}

func readSome(from io.Reader, n int) []byte {
	buf := make([]byte, n)
	_, _ = io.ReadFull(from, buf)
	return buf
}

// Over UDP the header is a part of the datagram, in version 2 only.
func TestHealthProxyProtocolOverUDP(t *testing.T) {
	for version, want := range map[ProxyProtocol]string{
		NoProxyProtocol: "ping",
		ProxyProtocolV1: "ping",
		ProxyProtocolV2: "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00ping",
	} {
		relaytest.NoLeaks(t)
		b := relaytest.NewUDPBackend(t, relaytest.Echo)
		r := newRig(t, []string{b.Addr})
		r.prober(HealthCheck{Networks: onUDP, Send: []byte("ping"), PROXY: version}, b.Addr)()
		if got := relaytest.Receive(t, "the datagram", b.Received); got != want {
			t.Errorf("v%d: was sent %q, want %q", version, got, want)
		}
		relaytest.Check(t, b.Conn.Close())
	}
}

// Framed puts the length before what is sent over TCP, and not over UDP.
func TestHealthFramed(t *testing.T) {
	check := HealthCheck{Send: []byte("query"), Framed: true}
	if got := string(check.stream()); got != "\x00\x05query" {
		t.Errorf("%q", got)
	}
	relaytest.NoLeaks(t)
	b := relaytest.NewUDPBackend(t, relaytest.Echo)
	r := newRig(t, []string{b.Addr})
	check.Networks = onUDP
	r.prober(check, b.Addr)()
	if got := relaytest.Receive(t, "the datagram", b.Received); got != "query" {
		t.Errorf("was sent %q", got)
	}
	relaytest.Check(t, b.Conn.Close())
}
