package dnsclient

import (
	"crypto/x509"
	"net/url"
)

// Protocol is the transport of DNS messages.
type Protocol uint8

// The protocols.
const (
	Plain Protocol = iota // UDP, and TCP for truncated answers
	TLS                   // RFC 7858
	HTTPS                 // RFC 8484
)

// Server is a DNS server.
type Server struct {
	Protocol Protocol
	Addr     string         // Plain and TLS: host:port
	TLSName  string         // TLS: the name in the certificate
	URL      string         // HTTPS
	Roots    *x509.CertPool // TLS and HTTPS: nil: those of the system
}

// String returns the server as errors name it. The path of an HTTPS server is left
// out, because it may identify the customer.
func (s Server) String() string {
	switch s.Protocol {
	case TLS:
		return "tls://" + s.Addr
	case HTTPS:
		return hostOf(s.URL)
	}
	return s.Addr
}

func (s Server) exchanger() exchanger {
	switch s.Protocol {
	case TLS:
		return newTLSServer(s)
	case HTTPS:
		return newHTTPSServer(s)
	}
	return plainServer{addr: s.Addr}
}

// hostOf returns a URL without its path and query.
func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "https://" // without a host that can be named; a query fails too
	}
	return u.Scheme + "://" + u.Host
}
