// SPDX-License-Identifier: Apache-2.0

// Traffic makes counted network traffic and says what it did.
//
// It is the only program in the lab's container image, and it also runs outside of containers. Every command
// prints one JSON report when it is done, so that a test knows exactly how many packets were handed to the kernel.
// Sends are system calls of this process: no worker of the kernel sends for it.
package main

import (
	"encoding/json"
	"os"
	"time"

	"github.com/alecthomas/kong"
)

// Report is what a command did.
type report struct {
	// Sent counts datagrams that the kernel accepted, or connections that were established.
	Sent int `json:"sent"`
	// Bytes counts payload bytes of a stream.
	Bytes int64 `json:"bytes,omitempty"`
	// Seconds is how long the sending took, where that is measured.
	Seconds float64 `json:"seconds,omitempty"`
	// Errors counts failed system calls by the name of the error.
	Errors map[string]int `json:"errors,omitempty"`
	// Answered counts DNS lookups that were answered.
	Answered int `json:"answered,omitempty"`
	// Strays counts messages on a socket shared by all lookups that answer none of them.
	Strays int `json:"strays,omitempty"`
	// Lookups are the DNS lookups, in order.
	Lookups []lookedUp `json:"lookups,omitempty"`
	// Exchanged are the connections that a mirror answered on.
	Exchanged []exchanged `json:"exchanged,omitempty"`
	// Transmitted is what the devices of this namespace have sent since their birth, but for loopback.
	Transmitted counted `json:"transmitted"`
}

type counted struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"` // Ethernet headers included
}

func (r report) print() error {
	return json.NewEncoder(os.Stdout).Encode(r)
}

type sleepCommand struct {
	For time.Duration `arg:"" optional:"" default:"1h" help:"How long to do nothing."`
}

func (c sleepCommand) Run() error {
	time.Sleep(c.For)
	return nil
}

func main() {
	var cli struct {
		UDPSend    udpSend         `cmd:"" name:"udp-send" help:"Send a counted number of datagrams."`
		UDPListen  udpListen       `cmd:"" name:"udp-listen" help:"Receive datagrams, or leave them in the queue."`
		TCPConnect tcpConnect      `cmd:"" name:"tcp-connect" help:"Open a counted number of connections."`
		TCPListen  tcpListen       `cmd:"" name:"tcp-listen" help:"Accept connections and discard what comes, or leave them in the backlog."`
		TCPStray   tcpStray        `cmd:"" name:"tcp-stray" help:"Send segments of a connection that do not fit into it."`
		TCPReset   tcpReset        `cmd:"" name:"tcp-reset" help:"Reset connections that there are not."`
		TCPSend    tcpSend         `cmd:"" name:"tcp-send" help:"Send one stream for a while."`
		Advertise  routerAdvertise `cmd:"" name:"router-advertise" help:"Tell a link that here is an IPv6 router."`
		Mirror     mirror          `cmd:"" help:"Tell everybody under which address they are seen."`
		Exchange   exchange        `cmd:"" help:"Open a counted number of connections to a mirror."`
		Ping       ping            `cmd:"" help:"Send a counted number of echo requests."`
		SCTPInit   sctpInit        `cmd:"" name:"sctp-init" help:"Ask for a counted number of SCTP associations."`
		UDPSpread  udpSpread       `cmd:"" name:"udp-spread" help:"Send datagrams from and to many ports."`
		VXLANSend  vxlanSend       `cmd:"" name:"vxlan-send" help:"Send frames through a tunnel that there is not."`
		Lookup     lookup          `cmd:"" help:"Look a name up a counted number of times."`
		DNSServe   dnsServe        `cmd:"" name:"dns-serve" help:"Answer DNS lookups in the way that the name says."`
		DNSAsk     dnsAsk          `cmd:"" name:"dns-ask" help:"Make a counted number of DNS lookups."`
		DNSFlood   dnsFlood        `cmd:"" name:"dns-flood" help:"Make DNS lookups at a rate."`
		DNSShout   dnsShout        `cmd:"" name:"dns-shout" help:"Ask a group."`
		Resolve    resolve         `cmd:"" help:"Look names up with the resolver of Go."`
		Talk       talk            `cmd:"" help:"Listen, and talk to others by name, again and again."`
		Sleep      sleepCommand    `cmd:"" help:"Do nothing."`
	}
	ctx := kong.Parse(&cli)
	ctx.FatalIfErrorf(ctx.Run())
}
