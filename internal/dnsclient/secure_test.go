package dnsclient

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// certificate returns a certificate for 127.0.0.1 and example.com, and its roots.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server.TLS.Certificates[0], roots
}

func TestDNSOverTLS(t *testing.T) {
	relaytest.NoLeaks(t)
	s := startDNS(t, bothFamilies)
	cert, roots := certificate(t)
	addr := s.startTLS(t, cert)
	c := clientOf(t, Config{Servers: []Server{{Protocol: TLS, Addr: addr, TLSName: "example.com", Roots: roots}}})
	server := c.servers[0].(*tlsServer)
	for range 3 {
		if got := wantAddrs(t, c, "a.example", "192.0.2.1", "2001:db8::1"); got.TTL != 30*time.Second {
			t.Errorf("TTL %v, want 30s", got.TTL)
		}
	}
	server.mu.Lock()
	idle := len(server.idle)
	server.mu.Unlock()
	if idle == 0 || idle > 2 { // one for A, one for AAAA
		t.Errorf("%d idle connections after three lookups, want at most 2", idle)
	}
	// Connections that were closed meanwhile are replaced within the lookup.
	server.mu.Lock()
	for _, i := range server.idle {
		i.conn.NetConn().Close()
	}
	server.mu.Unlock()
	wantAddrs(t, c, "a.example", "192.0.2.1", "2001:db8::1")
	c.Close()
	if len(server.idle) > 0 {
		t.Error("Close left idle connections")
	}
}

func TestCertificateOfAnotherNameIsRejected(t *testing.T) {
	s := startDNS(t, bothFamilies)
	cert, roots := certificate(t)
	addr := s.startTLS(t, cert)
	for name, server := range map[string]Server{
		"name":  {Protocol: TLS, Addr: addr, TLSName: "dns.test", Roots: roots},
		"roots": {Protocol: TLS, Addr: addr, TLSName: "example.com", Roots: x509.NewCertPool()},
	} {
		_, err := clientOf(t, Config{Servers: []Server{server}}).Addrs(limited(t), "a.example")
		if err == nil || !strings.Contains(err.Error(), "tls://"+addr) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: error %v, want one that names the server and the certificate", name, err)
		}
	}
	if len(s.queries()) > 0 {
		t.Errorf("queries %q reached the server", s.queries())
	}
}

// startHTTPS serves DNS over HTTPS, over HTTP/2 only.
func startHTTPS(t *testing.T, s *dnsServer, header http.Header) Server {
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		query := new(dns.Msg)
		if query.Unpack(body) != nil || query.Id != 0 || r.Method != http.MethodPost || r.Header.Get("Content-Type") != messageType || r.ProtoMajor != 2 {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		answer := s.answer("https", query)
		if answer == nil {
			http.Error(w, "no answer", http.StatusServiceUnavailable)
			return
		}
		b, _ := answer.Pack()
		for name, values := range header {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Type", messageType)
		_, _ = w.Write(b)
	}))
	h.EnableHTTP2 = true
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.StartTLS()
	t.Cleanup(h.Close)
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	return Server{Protocol: HTTPS, URL: h.URL + "/customer?token=customer", Roots: roots}
}

func TestDNSOverHTTPS(t *testing.T) {
	relaytest.NoLeaks(t)
	s := startDNS(t, bothFamilies)
	server := startHTTPS(t, s, http.Header{"Age": {"10"}})
	c := clientOf(t, Config{Servers: []Server{server}})
	for range 3 {
		if got := wantAddrs(t, c, "a.example", "192.0.2.1", "2001:db8::1"); got.TTL != 20*time.Second {
			t.Errorf("TTL %v, want 20s: the answer was in a cache for 10 s", got.TTL)
		}
	}
	if _, err := c.Addrs(limited(t), "b.example"); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("error %v, want no such host", err)
	}
	s.set(func(s *dnsServer) { s.silent = true })
	if _, err := c.Addrs(limited(t), "a.example"); err == nil || !strings.Contains(err.Error(), "HTTP status 503") || !strings.Contains(err.Error(), hostOf(server.URL)) || strings.Contains(err.Error(), "customer") {
		t.Errorf("error %v, want the status and the host of the server", err)
	}
	server.Roots = x509.NewCertPool()
	if _, err := clientOf(t, Config{Servers: []Server{server}}).Addrs(limited(t), "a.example"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error %v, want one about the certificate", err)
	}
}
