package dnsclient

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// writeCertificate writes a certificate for dns.test and its key into dir, and returns
// its roots.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	relaytest.Check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dns.test"}, DNSNames: []string{"dns.test"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	relaytest.Check(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	relaytest.Check(t, err)
	certText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	relaytest.Check(t, os.WriteFile(filepath.Join(dir, "cert.pem"), certText, 0o644))
	relaytest.Check(t, os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o644))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certText)
	return roots
}

// secureServer is a DNS server of Debian.
type secureServer struct {
	program, config string
	args            []string // with the path of the config in place of CONFIG and its directory in place of DIR
}

var secureServers = []secureServer{
	{"unbound", `server:
	interface: 127.0.0.1@TLS
	interface: 127.0.0.1@HTTPS
	tls-port: TLS
	https-port: HTTPS
	tls-service-key: "DIR/key.pem"
	tls-service-pem: "DIR/cert.pem"
	http-endpoint: "/dns-query"
	do-daemonize: no
	username: ""
	chroot: ""
	directory: "DIR"
	pidfile: ""
	use-syslog: no
	module-config: "iterator"
	do-not-query-localhost: no
	local-zone: "example." static
	local-data: "a.example. 60 IN A 192.0.2.1"
	local-data: "a.example. 30 IN AAAA 2001:db8::1"
	local-data: "_pg._tcp.example. 45 IN SRV 1 1 5432 a.example."
`, []string{"-d", "-c", "CONFIG"}},
	{"kresd", `
net.listen('127.0.0.1', TLS, { kind = 'tls' })
net.listen('127.0.0.1', HTTPS, { kind = 'doh2' })
net.tls('DIR/cert.pem', 'DIR/key.pem')
modules = { 'hints > iterate', 'policy' }
hints.ttl(60)
hints.add_hosts('DIR/hosts')
cache.size = 10 * MB
policy.add(policy.domains(policy.ANSWER({ [kres.type.SRV] = { rdata = '\0\1\0\1\21\56\1a\7example\0', ttl = 45 } }), { todname('_pg._tcp.example') }))
policy.add(policy.suffix(policy.DENY, { todname('b.example') }))
`, []string{"-n", "-c", "CONFIG", "DIR"}},
}

// start starts the server and returns it on both protocols, until the end of the test.
func (s secureServer) start(t *testing.T) (overTLS, overHTTPS Server) {
	t.Helper()
	program, err := exec.LookPath(s.program)
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/" + s.program); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	relaytest.Check(t, os.WriteFile(filepath.Join(dir, "hosts"), []byte("192.0.2.1 a.example\n2001:db8::1 a.example\n"), 0o644))
	ports := [2]string{strconv.Itoa(freePorts.Free(t)), strconv.Itoa(freePorts.Free(t))}
	fill := strings.NewReplacer("DIR", dir, "HTTPS", ports[1], "TLS", ports[0], "CONFIG", filepath.Join(dir, "config"))
	relaytest.Check(t, os.WriteFile(filepath.Join(dir, "config"), []byte(fill.Replace(s.config)), 0o644))
	var args []string
	for _, arg := range s.args {
		args = append(args, fill.Replace(arg))
	}
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	relaytest.Check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", s.program, out.String())
		}
	})
	for _, port := range ports {
		relaytest.Eventually(t, s.program+" to listen on "+port, func() bool {
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	return Server{Protocol: TLS, Addr: "127.0.0.1:" + ports[0], TLSName: "dns.test", Roots: roots},
		Server{Protocol: HTTPS, URL: fmt.Sprintf("https://127.0.0.1:%s/dns-query", ports[1]), Roots: roots}
}

// freePorts are the ports of this process.
var freePorts = relaytest.ClaimPorts()

// Servers that many people run answer over TLS and HTTPS, on connections that are used
// again.
func TestSecureServersOfDebian(t *testing.T) {
	for _, s := range secureServers {
		t.Run(s.program, func(t *testing.T) {
			overTLS, overHTTPS := s.start(t)
			for name, server := range map[string]Server{"tls": overTLS, "https": overHTTPS} {
				c := clientOf(t, Config{Servers: []Server{server}})
				for range 3 {
					if got := wantAddrs(t, c, "a.example", "192.0.2.1", "2001:db8::1"); got.TTL <= 0 || got.TTL > time.Minute {
						t.Errorf("%s: TTL %v, want at most 1m", name, got.TTL)
					}
				}
				if _, err := c.Addrs(limited(t), "b.example"); err == nil || !strings.Contains(err.Error(), "no such host") {
					t.Errorf("%s: error %v, want no such host", name, err)
				}
				targets, ttl, err := c.Targets(limited(t), "_pg._tcp.example")
				if err != nil || len(targets) != 1 || targets[0] != (Target{"a.example.", 5432, 1, 1}) || ttl != 45*time.Second {
					t.Errorf("%s: targets %v, TTL %v, error %v", name, targets, ttl, err)
				}
				if server.Protocol == TLS {
					of := c.servers[0].(*tlsServer)
					of.mu.Lock()
					idle := len(of.idle)
					of.mu.Unlock()
					if idle == 0 || idle > 2 {
						t.Errorf("%d idle connections, want at most 2", idle)
					}
				}
			}
			// A dead server before it: nothing listens there, or nothing answers.
			silent := startDNS(t, nil)
			silent.set(func(s *dnsServer) { s.silent = true })
			for name, dead := range map[string]Server{"refused": {Addr: "127.0.0.1:1"}, "silent": {Addr: silent.addr}} {
				c := clientOf(t, Config{Servers: []Server{dead, overTLS}})
				wantAddrs(t, c, "a.example", "192.0.2.1", "2001:db8::1")
				began := time.Now()
				wantAddrs(t, c, "a.example", "192.0.2.1", "2001:db8::1")
				t.Logf("%s server before it: %v", name, time.Since(began))
			}
		})
	}
}
