package caddyfile

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// This file has the presets of health checks: a send and expect for a protocol,
// known by its name. What a preset does not cover is written with send and expect.

// redisMaster is the role that health_check.redis can require.
const redisMaster = "master"

var redisRoles = choiceSetting{words: []string{"any", redisMaster}}

// redisExchange returns the exchange with a Redis server. A server that requires a
// password refuses both commands. For PING that is an answer of a working server,
// and about its role it says nothing.
func redisExchange(master bool) Exchange {
	if master {
		return Exchange{Send: []byte("ROLE\r\n"), Expect: [][]byte{[]byte("$6\r\nmaster\r\n")}}
	}
	return Exchange{Send: []byte("PING\r\n"), Expect: [][]byte{[]byte("+PONG"), []byte("-NOAUTH")}}
}

// postgresExchange returns the exchange with a PostgreSQL server: a startup packet
// and the request to authenticate. A server that starts up, shuts down or has no
// connection left answers with an error instead. An error about the user, about
// its access or about the database is the answer of a working server. See
// https://www.postgresql.org/docs/current/protocol-message-formats.html
func postgresExchange() Exchange {
	const version = 3 << 16
	packet := binary.BigEndian.AppendUint32(make([]byte, 4), version)
	packet = append(packet, "user\x00postgres\x00database\x00postgres\x00\x00"...)
	binary.BigEndian.PutUint32(packet, uint32(len(packet)))
	return Exchange{Send: packet, Expect: [][]byte{
		[]byte("R\x00\x00\x00"),
		[]byte("C28000\x00"), // not in pg_hba.conf, or no such user
		[]byte("C28P01\x00"), // password required
		[]byte("C3D000\x00"), // no such database
	}}
}

// dnsID is the id of the query. It may be constant: the answer can only come from
// the backend, on a socket that is used once.
const dnsID = 0xca5e

// dnsExchange returns the exchange with a DNS server: a query for the A records of
// a name, and the header of an answer without an error. The bits of the header
// that a server may choose give several such headers.
func dnsExchange(name string) (Exchange, error) {
	invalid := fmt.Errorf("must be a domain name, got %s", Quoted(name))
	if !strings.HasSuffix(name, ".") {
		name += "."
	}
	question, err := dnsmessage.NewName(name)
	if err != nil || strings.ContainsFunc(name, blankOrControl) {
		return Exchange{}, invalid
	}
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: dnsID, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: question, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	send, err := query.Pack()
	if err != nil {
		return Exchange{}, invalid
	}
	e := Exchange{Send: send, Framed: true}
	for bits := range 1 << 5 {
		answer := dnsmessage.Message{Header: dnsmessage.Header{
			ID: dnsID, Response: true, RecursionDesired: true,
			Authoritative:      bits&1 != 0,
			Truncated:          bits&2 != 0,
			RecursionAvailable: bits&4 != 0,
			AuthenticData:      bits&8 != 0,
			CheckingDisabled:   bits&16 != 0,
		}}
		packed, err := answer.Pack()
		if err != nil {
			return Exchange{}, invalid
		}
		const idAndFlags = 4
		e.Expect = append(e.Expect, packed[:idAndFlags])
	}
	return e, nil
}

// setRedis treats a missing argument as "any".
func setRedis(c *Config, args []string) error {
	c.HealthCheck.Redis = redisRoles.words[0]
	if len(args) == 0 {
		return nil
	}
	if err := redisRoles.check(args[0]); err != nil {
		return err
	}
	c.HealthCheck.Redis = args[0]
	return nil
}

func setPostgres(c *Config, _ []string) error {
	c.HealthCheck.Postgres = true
	return nil
}

func setDNS(c *Config, args []string) error {
	if !placeholder.MatchString(args[0]) {
		if _, err := dnsExchange(args[0]); err != nil {
			return err
		}
	}
	c.HealthCheck.DNS = args[0]
	return nil
}
