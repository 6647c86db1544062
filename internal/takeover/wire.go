package takeover

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Key identifies a UDP client of a listening socket. Socket is the address that the
// socket is bound to. Local is the address that the client sends to. It is zero
// unless the socket is bound to a wildcard address.
type Key struct {
	Socket, Client netip.AddrPort
	Local          netip.Addr
}

// A message on a [Link] is a sequence of records:
//
//	kind        1 byte
//	key         three fields, each 1 byte for its length and its MarshalBinary form
//	datagram    2 bytes for its length (big endian) and its bytes; kindDatagram only
const (
	kindDatagram byte = 1 + iota // a datagram of a client
	kindEnded                    // the client has ended in the old process
	kindLast                     // of the old process: all clients have ended. Of the new one: no datagram comes after it. The key is zero
)

// maxRecord is the length of the longest record: a key with two zones, and a
// datagram of 64 KiB.
const maxRecord = 1 + 3*(1+18+64) + 2 + 0xffff

// maxMessage bounds a message of several records. Longer ones save few system calls.
const maxMessage = 32 << 10

var errMalformed = errors.New("malformed record")

// appendRecord appends a record. datagram is ignored unless kind is kindDatagram.
func appendRecord(to []byte, kind byte, k Key, datagram []byte) []byte {
	to = append(to, kind)
	to = appendKey(to, k)
	if kind == kindDatagram {
		to = binary.BigEndian.AppendUint16(to, uint16(len(datagram)))
		to = append(to, datagram...)
	}
	return to
}

func appendKey(to []byte, k Key) []byte {
	for _, field := range []interface {
		AppendBinary([]byte) ([]byte, error)
	}{k.Socket, k.Client, k.Local} {
		at := len(to)
		to = append(to, 0)
		to, _ = field.AppendBinary(to) // never fails
		to[at] = byte(len(to) - at - 1)
	}
	return to
}

// parseRecord parses the first record and returns the records after it. datagram
// aliases from.
func parseRecord(from []byte) (kind byte, k Key, datagram, rest []byte, err error) {
	if len(from) == 0 {
		return 0, k, nil, nil, errMalformed
	}
	kind = from[0]
	k, rest, err = parseKey(from[1:])
	switch {
	case err != nil:
	case kind == kindEnded, kind == kindLast:
	case kind != kindDatagram || len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)):
		err = errMalformed
	default:
		end := 2 + int(binary.BigEndian.Uint16(rest))
		datagram, rest = rest[2:end:end], rest[end:]
	}
	if err != nil {
		return 0, Key{}, nil, nil, err
	}
	return kind, k, datagram, rest, nil
}

func parseKey(from []byte) (k Key, rest []byte, err error) {
	for _, field := range []interface{ UnmarshalBinary([]byte) error }{&k.Socket, &k.Client, &k.Local} {
		if len(from) == 0 || len(from)-1 < int(from[0]) {
			return Key{}, nil, errMalformed
		}
		end := 1 + int(from[0])
		if field.UnmarshalBinary(from[1:end]) != nil {
			return Key{}, nil, errMalformed
		}
		from = from[end:]
	}
	return k, from, nil
}

// appendKeys and parseKeys convert a list of keys.
func appendKeys(keys []Key) (text []byte) {
	for _, k := range keys {
		text = appendKey(text, k)
	}
	return text
}

func parseKeys(text []byte) (keys []Key, err error) {
	for len(text) > 0 {
		var k Key
		if k, text, err = parseKey(text); err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}
