package handler

import (
	"net"

	"github.com/pires/go-proxyproto"
)

// ProxyProtocol says which header, if any, tells a backend who the client is:
// that of the PROXY protocol, https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt
type ProxyProtocol uint8

// The versions.
const (
	NoProxyProtocol ProxyProtocol = iota
	ProxyProtocolV1
	ProxyProtocolV2
)

// header is what precedes the bytes of a TCP client; nil if nothing does.
func (v ProxyProtocol) header(client, local net.Addr) []byte {
	if v == NoProxyProtocol {
		return nil
	}
	return format(proxyproto.HeaderProxyFromAddrs(byte(v), client, local))
}

// datagramHeader is what precedes a datagram; nil if nothing does. Version 1
// has no form for UDP.
func (v ProxyProtocol) datagramHeader(key Key) []byte {
	if v != ProxyProtocolV2 {
		return nil
	}
	return format(proxyproto.HeaderProxyFromAddrs(byte(v), net.UDPAddrFromAddrPort(key.Client), net.UDPAddrFromAddrPort(key.Local)))
}

func format(h *proxyproto.Header) []byte {
	bytes, err := h.Format()
	if err != nil { // addresses that it has no form for
		bytes, _ = (&proxyproto.Header{Version: h.Version, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}).Format()
	}
	return bytes
}
