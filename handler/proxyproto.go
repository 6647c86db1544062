package handler

import (
	"net"

	"github.com/pires/go-proxyproto"
)

// ProxyProtocol selects the version of the PROXY protocol header that carries a
// client's address to the backend, if any. See
// https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt
type ProxyProtocol uint8

// The versions.
const (
	NoProxyProtocol ProxyProtocol = iota
	ProxyProtocolV1
	ProxyProtocolV2
)

// header returns the header to send before the bytes of a TCP client; nil for
// NoProxyProtocol.
func (v ProxyProtocol) header(client, local net.Addr) []byte {
	if v == NoProxyProtocol {
		return nil
	}
	return format(proxyproto.HeaderProxyFromAddrs(byte(v), client, local))
}

// datagramHeader returns the header to put before a datagram; nil for
// NoProxyProtocol and for version 1, which does not support UDP.
func (v ProxyProtocol) datagramHeader(key Key) []byte {
	if v != ProxyProtocolV2 {
		return nil
	}
	return format(proxyproto.HeaderProxyFromAddrs(byte(v), net.UDPAddrFromAddrPort(key.Client), net.UDPAddrFromAddrPort(key.Local)))
}

// checkHeader returns the header to send before a health check over TCP: the
// connection is from the relay itself. It is nil for NoProxyProtocol.
func (v ProxyProtocol) checkHeader() []byte {
	if v == NoProxyProtocol {
		return nil
	}
	return format(&proxyproto.Header{Version: byte(v), Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC})
}

// checkDatagramHeader is checkHeader for a datagram; nil for version 1, which does
// not support UDP.
func (v ProxyProtocol) checkDatagramHeader() []byte {
	if v != ProxyProtocolV2 {
		return nil
	}
	return v.checkHeader()
}

// format returns the bytes of a header. For addresses that the protocol cannot
// express, that is a header without addresses.
func format(h *proxyproto.Header) []byte {
	bytes, err := h.Format()
	if err != nil {
		bytes, _ = (&proxyproto.Header{Version: h.Version, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}).Format()
	}
	return bytes
}
