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

// HealthCheck holds the settings of the probes of backends.
//
// A probe of a TCP backend connects. If send is set, it then sends that payload
// and waits for an answer. UDP has no connections, so a probe of a UDP backend
// requires send and succeeds only if the backend answers.
type HealthCheck struct {
	// The network to probe: `tcp`, `udp` or `both`. `udp` and `both` require
	// send. Default: `tcp`.
	Network string `json:"network,omitempty"`

	// The time between the starts of two probes of a backend, varied randomly
	// by up to a tenth. A probe that takes longer delays the next one. Must be
	// at least 10ms. Default: 60s.
	Interval *caddy.Duration `json:"interval,omitempty"`

	// The time limit of one probe, including the lookup of the name and the
	// answer. Must be greater than zero. May be longer than interval. Default:
	// 5s.
	Timeout *caddy.Duration `json:"timeout,omitempty"`

	// The number of successful probes in a row after which failback returns a
	// backend to its configured place, at least 1. Has no effect without
	// failback. Default: 2.
	Rise *int `json:"rise,omitempty"`

	// The payload that a probe sends, at most 65507 bytes. It is either text
	// with the escapes `\r`, `\n`, `\t`, `\\` and `\xNN` (two hex digits), or
	// `hex:` and pairs of hex digits, as in `hex:0a0b`. May contain `{env.*}`
	// and `{file.*}` placeholders, which are replaced before escapes are
	// interpreted. Write other braces as `\{` and `\}`. Default: none.
	Send string `json:"send,omitempty"`

	// The bytes that the answer must contain, written like send. Requires send.
	// Default: any answer is accepted.
	Expect string `json:"expect,omitempty"`
}

// HealthCheckOptions holds the settings of health checks with every default
// filled in.
type HealthCheckOptions struct {
	TCP, UDP bool // the networks to probe
	Interval time.Duration
	Timeout  time.Duration
	Rise     int
	Send     []byte // empty: a TCP connect is enough
	Expect   []byte // empty: any answer is accepted
}

func (h *HealthCheck) options() *HealthCheckOptions {
	if h == nil {
		return nil
	}
	o := &HealthCheckOptions{
		TCP:      h.Network != "udp",
		UDP:      h.Network == "udp" || h.Network == "both",
		Interval: durationOr(h.Interval, DefaultHealthInterval),
		Timeout:  durationOr(h.Timeout, DefaultHealthTimeout),
		Rise:     intOr(h.Rise, DefaultHealthRise),
	}
	o.Send, _ = parsePayload(h.Send)
	o.Expect, _ = parsePayload(h.Expect)
	return o
}

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
			return nil, fmt.Errorf("must be pairs of hex digits after hex:, as in hex:0a0b, got %s", quoted(text))
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

// validate reports the problems that the tables of settings cannot find.
func (h *HealthCheck) validate(fail func(field string, err error)) {
	if h == nil {
		return
	}
	if (h.Network == "udp" || h.Network == "both") && h.Send == "" {
		fail("health_check.network", fmt.Errorf("%s requires health_check.send, because a UDP probe succeeds only with an answer", h.Network))
	}
	if h.Expect != "" && h.Send == "" {
		fail("health_check.expect", errors.New("requires health_check.send"))
	}
}
