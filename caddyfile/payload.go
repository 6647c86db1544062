package caddyfile

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxPayload is the size of the largest datagram.
const maxPayload = 65507

// hexPrefix marks a payload in hex. A text payload that begins with it is written
// `\x68ex:`.
const hexPrefix = "hex:"

// parsePayload decodes text, which has the format described at
// [HealthCheck.Send]. Empty text gives no bytes.
func parsePayload(text string) (payload []byte, err error) {
	if digits, ok := strings.CutPrefix(text, hexPrefix); ok {
		payload, err = hex.DecodeString(digits)
		if err != nil || len(payload) == 0 {
			return nil, fmt.Errorf("must be pairs of hex digits after hex:, as in hex:0a0b, got %s", Quoted(text))
		}
	} else if payload, err = unescape(text); err != nil {
		return nil, err
	}
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("must be at most %d bytes, got %d", maxPayload, len(payload))
	}
	return payload, nil
}

// escapes maps the letters that may follow a backslash, other than x, to their
// bytes.
var escapes = map[byte]byte{'r': '\r', 'n': '\n', 't': '\t', '\\': '\\'}

func unescape(text string) (out []byte, err error) {
	for {
		plain, rest, found := strings.Cut(text, `\`)
		out = append(out, plain...)
		if !found {
			return out, nil
		}
		if rest == "" {
			return nil, errors.New(`must not end with a single backslash; write \\ for a backslash`)
		}
		if b, ok := escapes[rest[0]]; ok {
			out, text = append(out, b), rest[1:]
			continue
		}
		var b []byte
		if rest[0] == 'x' && len(rest) >= 3 {
			b, err = hex.DecodeString(rest[1:3])
		}
		if len(b) == 0 || err != nil {
			letter, _ := utf8.DecodeRuneInString(rest)
			return nil, fmt.Errorf(`must use only the escapes \r, \n, \t, \\ and \xNN (two hex digits), got a backslash before %q`, letter)
		}
		out, text = append(out, b...), rest[3:]
	}
}
