package lab

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// Numbers of protocols, in the headers of IPv4 and IPv6.
const (
	protocolICMP   = 1
	protocolUDP    = 17
	protocolICMPv6 = 58
)

// Datagram is a UDP datagram with its addresses.
type Datagram struct {
	From, To netip.AddrPort
	Payload  []byte
	packet   []byte // with all headers; nil for a datagram that did not arrive
}

// Answer returns the packet of an answer.
func (d Datagram) Answer(payload []byte) []byte {
	return Datagram{From: d.To, To: d.From, Payload: payload}.Packet()
}

// Packet returns the IP packet of a datagram.
func (d Datagram) Packet() []byte {
	udp := make([]byte, 8, 8+len(d.Payload))
	binary.BigEndian.PutUint16(udp[0:], d.From.Port())
	binary.BigEndian.PutUint16(udp[2:], d.To.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(d.Payload)))
	return packet(d.From.Addr(), d.To.Addr(), protocolUDP, append(udp, d.Payload...), 6)
}

// ICMP is an ICMP error: the type and code of RFC 792 for a datagram of IPv4, of
// RFC 4443 for one of IPv6.
type ICMP struct {
	Type, Code uint8
	MTU        uint16
}

// The errors that tests use, for IPv4 and IPv6.
var (
	PortUnreachable4   = ICMP{Type: 3, Code: 3}
	PortUnreachable6   = ICMP{Type: 1, Code: 4}
	HostUnreachable4   = ICMP{Type: 3, Code: 1}
	HostUnreachable6   = ICMP{Type: 1, Code: 3}
	ReassemblyTimeout6 = ICMP{Type: 3, Code: 1}
)

// PacketTooBig returns the error of a path that is narrower than a datagram.
func PacketTooBig(ipv4 bool, mtu uint16) ICMP {
	if ipv4 {
		return ICMP{Type: 3, Code: 4, MTU: mtu}
	}
	return ICMP{Type: 2, MTU: mtu}
}

// Error returns the packet of an ICMP error that the host from sends about a
// datagram. It quotes the datagram's first 500 bytes.
func (d Datagram) Error(from netip.Addr, e ICMP) []byte {
	quoted := d.packet
	if quoted == nil {
		quoted = d.Packet()
	}
	message := make([]byte, 8, 8+500)
	message[0], message[1] = e.Type, e.Code
	binary.BigEndian.PutUint16(message[6:], e.MTU) // at the same place in both: the MTU of ICMPv6 has 32 bits
	protocol := byte(protocolICMP)
	if from.Is6() {
		protocol = protocolICMPv6
	}
	return packet(from, d.From.Addr(), protocol, append(message, quoted[:min(len(quoted), 500)]...), 2)
}

// packet returns an IP packet. The checksum of its payload is written at an
// offset of the payload.
func packet(from, to netip.Addr, protocol byte, payload []byte, checksumAt int) []byte {
	var header, pseudo []byte
	if from.Is4() {
		header = make([]byte, 20)
		header[0], header[8], header[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(header[2:], uint16(20+len(payload)))
		copy(header[12:], from.AsSlice())
		copy(header[16:], to.AsSlice())
		binary.BigEndian.PutUint16(header[10:], checksum(header))
	} else {
		header = make([]byte, 40)
		header[0], header[6], header[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(header[4:], uint16(len(payload)))
		copy(header[8:], from.AsSlice())
		copy(header[24:], to.AsSlice())
	}
	if protocol != protocolICMP {
		pseudo = bytes.Join([][]byte{from.AsSlice(), to.AsSlice(), {0, protocol}, binary.BigEndian.AppendUint16(nil, uint16(len(payload)))}, nil)
	}
	binary.BigEndian.PutUint16(payload[checksumAt:], checksum(append(pseudo, payload...)))
	return append(header, payload...)
}

// checksum returns the checksum of RFC 1071. A sum of zero is returned as its
// other form, because zero means "no checksum" in UDP.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff
	}
	return ^uint16(sum)
}

// parse returns the datagram of a packet. ok is false for other packets and for
// fragments.
func parse(b []byte) (d Datagram, ok bool) {
	var from, to netip.Addr
	var udp []byte
	switch {
	case len(b) >= 28 && b[0]>>4 == 4 && b[9] == protocolUDP && binary.BigEndian.Uint16(b[6:])&0x3fff == 0:
		from, to = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		udp = b[int(b[0]&15)*4:]
	case len(b) >= 48 && b[0]>>4 == 6 && b[6] == protocolUDP:
		from, to = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		udp = b[40:]
	default:
		return d, false
	}
	return Datagram{
		From:    netip.AddrPortFrom(from, binary.BigEndian.Uint16(udp[0:])),
		To:      netip.AddrPortFrom(to, binary.BigEndian.Uint16(udp[2:])),
		Payload: bytes.Clone(udp[8:]),
		packet:  bytes.Clone(b),
	}, true
}
