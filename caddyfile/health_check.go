package caddyfile

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
)

// HealthCheck says how backends are probed.
//
// A probe of a TCP backend connects; with send it also sends that and waits
// for an answer. A UDP backend has nothing to connect to: only an answer to
// what was sent tells that one is well, so UDP needs send.
type HealthCheck struct {
	// What is probed: `tcp`, `udp`, which needs send, or `both`. Default: `tcp`.
	Network string `json:"network,omitempty"`

	// How long after one probe of a backend the next begins. Must be greater
	// than zero. Default: 60s.
	Interval *caddy.Duration `json:"interval,omitempty"`

	// How long one probe may take, the lookup of the name and the answer
	// included. Must be greater than zero; may be longer than interval.
	// Default: 5s.
	Timeout *caddy.Duration `json:"timeout,omitempty"`

	// How many probes in a row must find a backend well before failback
	// returns it to its place, 1 or more. Default: 2.
	Rise *int `json:"rise,omitempty"`

	// What a probe sends once it is connected. Text is sent as it is, with the
	// escapes `\r`, `\n`, `\t`, `\\` and `\xNN` (two hex digits) understood;
	// with the prefix `hex:` it is bytes as pairs of hex digits, as in
	// `hex:0a0b`. At most 65507 bytes. May contain `{env.*}` and `{file.*}`
	// placeholders, which are replaced before escapes are read; other braces
	// are written `\{` and `\}`. Default: nothing.
	Send string `json:"send,omitempty"`

	// What the answer must contain, written like send, which it needs.
	// Default: any answer will do.
	Expect string `json:"expect,omitempty"`
}

// HealthCheckOptions are the settings of health checks with every default
// filled in.
type HealthCheckOptions struct {
	TCP, UDP bool // what is probed
	Interval time.Duration
	Timeout  time.Duration
	Rise     int
	Send     []byte // empty: connecting is enough
	Expect   []byte // empty: any answer will do
}

func (h *HealthCheck) options() *HealthCheckOptions {
	if h == nil {
		return nil
	}
	o := &HealthCheckOptions{
		TCP:      h.Network != "udp",
		UDP:      h.Network == "udp" || h.Network == "both",
		Interval: orDefault(h.Interval, DefaultHealthInterval),
		Timeout:  orDefault(h.Timeout, DefaultHealthTimeout),
		Rise:     countOr(h.Rise, DefaultHealthRise),
	}
	o.Send, _ = parsePayload(h.Send)
	o.Expect, _ = parsePayload(h.Expect)
	return o
}

// maxPayload is what one datagram holds.
const maxPayload = 65507

// hexPrefix tells a payload in hex from text. Text that begins with it is
// written `\x68ex:`.
const hexPrefix = "hex:"

// parsePayload returns the bytes that text stands for, which is none for
// none.
func parsePayload(text string) (payload []byte, err error) {
	if digits, ok := strings.CutPrefix(text, hexPrefix); ok {
		payload, err = hex.DecodeString(digits)
		if err != nil || len(payload) == 0 {
			return nil, fmt.Errorf("must be pairs of hex digits behind hex:, as in hex:0a0b, got %s", quoted(text))
		}
	} else if payload, err = unescape(text); err != nil {
		return nil, err
	}
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("must be at most %d bytes, got %d", maxPayload, len(payload))
	}
	return payload, nil
}

// escapes are the letters that may follow a backslash, besides x.
var escapes = map[byte]byte{'r': '\r', 'n': '\n', 't': '\t', '\\': '\\'}

func unescape(text string) (out []byte, err error) {
	for {
		plain, rest, found := strings.Cut(text, `\`)
		out = append(out, plain...)
		if !found {
			return out, nil
		}
		if rest == "" {
			return nil, errors.New(`must not end in a single backslash; write \\ for one`)
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
			return nil, fmt.Errorf(`must have only the escapes \r, \n, \t, \\ and \xNN, with two hex digits, got a backslash before %q`, letter)
		}
		out, text = append(out, b...), rest[3:]
	}
}

// problems are those that Validate can not find in the tables of settings.
func (h *HealthCheck) problems(fail func(field string, err error)) {
	if h == nil {
		return
	}
	if (h.Network == "udp" || h.Network == "both") && h.Send == "" {
		fail("health_check.network", fmt.Errorf("%s needs health_check.send, because a UDP backend shows by its answer that it is well", h.Network))
	}
	if h.Expect != "" && h.Send == "" {
		fail("health_check.expect", errors.New("needs health_check.send, because nothing answers to nothing"))
	}
}
