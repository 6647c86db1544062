package dnsclient

import "crypto/x509"

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

// String returns the server as errors name it.
func (s Server) String() string {
	switch s.Protocol {
	case TLS:
		return "tls://" + s.Addr
	case HTTPS:
		return s.URL
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
