package module_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/async-relay/caddy-relay/upstream"
)

// introduction reads the header and then size bytes.
func introduction(t *testing.T, conn net.Conn, size int) (header *proxyproto.Header, rest string) {
	t.Helper()
	r := bufio.NewReader(conn)
	header, err := proxyproto.Read(r)
	if err != nil {
		t.Fatalf("the header: %v", err)
	}
	buf := make([]byte, size)
	if _, err := io.ReadFull(r, buf); err != nil {
		t.Fatalf("behind the header: %v", err)
	}
	return header, string(buf)
}

// wantHeader checks the version and the addresses of a header.
func wantHeader(t *testing.T, h *proxyproto.Header, version byte, client, local string) {
	t.Helper()
	if h.Version != version || h.Command != proxyproto.PROXY || h.SourceAddr.String() != client || h.DestinationAddr.String() != local {
		t.Errorf("header of version %d, command %v, %v to %v; want version %d, %s to %s", h.Version, h.Command, h.SourceAddr, h.DestinationAddr, version, client, local)
	}
}

// versions runs a test for each version of the protocol.
func versions(t *testing.T, test func(t *testing.T, name string, version byte)) {
	for i, name := range []string{"v1", "v2"} {
		t.Run(name, func(t *testing.T) { test(t, name, byte(i+1)) })
	}
}

// The header comes before all other bytes, including those that matchers have
// read. The backend that serves after a failover gets it, too.
func TestProxyProtocolToTCPBackends(t *testing.T) {
	versions(t, func(t *testing.T, name string, version byte) {
		overBoth(t, func(t *testing.T) {
			ln, at := listenTCP(t), freeAddr(t)
			s := start(t, fmt.Sprintf(`TCP/%s {
				@hello regexp ^hello 5
				route @hello {
					relay %s %s {
						name %s
						proxy_protocol %s
						access_log tcp
					}
				}
			}`, at, freeAddr(t), ln.Addr(), serviceAt(at), name))
			client := dial(t, "tcp", at)
			if _, err := io.WriteString(client, "hello backend"); err != nil {
				t.Fatal(err)
			}
			backend := accept(t, ln)
			h, rest := introduction(t, backend, 13)
			wantHeader(t, h, version, client.LocalAddr().String(), at)
			if h.TransportProtocol != proxyproto.TCPv4 || rest != "hello backend" {
				t.Errorf("%v, then %q", h.TransportProtocol, rest)
			}
			pass(t, backend, client, "hello client")
			client.Close()
			readToEnd(backend)
			backend.Close()
			s.wantReason("client_closed", 13, 12) // the header does not count
			if use := useOf(serviceAt(at), ln.Addr().String(), upstream.TCP); use.BytesUp != 13 || use.BytesDown != 12 {
				t.Errorf("counted: %+v", use.Totals)
			}
		})
	})
}

// On a wildcard listener the header has the address that the client connected to.
// For an IPv4 client it is an IPv4 header.
func TestProxyProtocolOnAWildcardAddress(t *testing.T) {
	versions(t, func(t *testing.T, name string, version byte) {
		overBoth(t, func(t *testing.T) {
			ln, port := listenTCP(t), freePort(t)
			start(t, block(fmt.Sprintf("TCP/:%d", port), fmt.Sprintf("%s {\n proxy_protocol %s\n }", ln.Addr(), name)))
			for _, ip := range []string{"127.0.0.1", "::1"} {
				at := net.JoinHostPort(ip, fmt.Sprint(port))
				if probe, err := net.Listen("tcp", net.JoinHostPort(ip, "0")); err != nil {
					t.Log("no such address on this machine: ", err)
					continue
				} else {
					probe.Close()
				}
				client := dial(t, "tcp", at)
				h, _ := introduction(t, accept(t, ln), 0)
				wantHeader(t, h, version, client.LocalAddr().String(), at)
				if want := map[string]proxyproto.AddressFamilyAndProtocol{"127.0.0.1": proxyproto.TCPv4, "::1": proxyproto.TCPv6}[ip]; h.TransportProtocol != want {
					t.Errorf("%s: %v", ip, h.TransportProtocol)
				}
			}
		})
	})
}

// The client of an inbound header is passed on in the header to the backend.
func TestProxyProtocolIsPassedOn(t *testing.T) {
	versions(t, func(t *testing.T, name string, version byte) {
		overBoth(t, func(t *testing.T) {
			ln, at := listenTCP(t), freeAddr(t)
			s := start(t, fmt.Sprintf("TCP/%s {\n route {\n proxy_protocol\n relay %s {\n proxy_protocol %s\n access_log tcp\n }\n }\n }", at, ln.Addr(), name))
			client := dial(t, "tcp", at)
			if _, err := io.WriteString(client, "PROXY TCP4 198.51.100.7 203.0.113.9 4711 80\r\nhello"); err != nil {
				t.Fatal(err)
			}
			backend := accept(t, ln)
			h, rest := introduction(t, backend, 5)
			wantHeader(t, h, version, "198.51.100.7:4711", "203.0.113.9:80")
			if rest != "hello" {
				t.Errorf("then %q", rest)
			}
			client.Close()
			readToEnd(backend)
			backend.Close()
			line := s.accesses(1)[0]
			if line["client"] != "198.51.100.7:4711" || line["bytes_up"] != 5.0 {
				t.Errorf("%v", line)
			}
		})
	})
}

func TestProxyProtocolBehindTLS(t *testing.T) {
	versions(t, func(t *testing.T, name string, version byte) {
		ln, at := listenTCP(t), freeAddr(t)
		startBehindTLS(t, at, fmt.Sprintf("%s {\n proxy_protocol %s\n }", ln.Addr(), name))
		client := tlsClient(dial(t, "tcp", at))
		if _, err := io.WriteString(client, "hello"); err != nil {
			t.Fatal(err)
		}
		h, rest := introduction(t, accept(t, ln), 5)
		wantHeader(t, h, version, client.LocalAddr().String(), at)
		if rest != "hello" {
			t.Errorf("then %q", rest)
		}
	})
}
