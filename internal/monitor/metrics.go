// SPDX-License-Identifier: GPL-2.0-or-later

package monitor

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"remsim/internal/bankd"
	"remsim/internal/client"
	"remsim/internal/count"
	"remsim/internal/daemon"
	"remsim/internal/server"
)

// The tables below are all metrics of our own; doc/metrics.md is made of them.

func buildMetrics(program string) []metric[struct{}] {
	return []metric[struct{}]{{
		name: "remsim_build_info", help: "What program this is; always 1.", labels: []string{"program", "version", "goversion"},
		samples: func(_ struct{}, give func(float64, ...string)) { give(1, program, daemon.Version(), runtime.Version()) },
	}}
}

func serverMetrics() []metric[server.Stats] {
	type S = server.Stats
	return []metric[S]{
		{
			name: "remsim_server_peers", help: "Programs that are connected.", labels: []string{"type"},
			samples: func(s S, give func(float64, ...string)) {
				give(float64(s.Bankds), "bankd")
				give(float64(s.Clients), "client")
			},
		},
		{
			name: "remsim_server_peers_connected_total", help: "How often a program was accepted; more than once each is reconnects.", labels: []string{"type"}, kind: counter,
			samples: func(s S, give func(float64, ...string)) {
				give(float64(s.BankdsConnected), "bankd")
				give(float64(s.ClientsConnected), "client")
			},
		},
		{
			name: "remsim_server_connections_unidentified", help: "Connections whose peer hasn't been accepted.",
			samples: one(func(s S) int { return s.Unidentified }),
		},
		{
			name: "remsim_server_slotmaps", help: "Slot maps by state; in lasting trouble are those that stay NEW.", labels: []string{"state"},
			samples: func(s S, give func(float64, ...string)) { each(s.Maps, give) },
		},
		{
			name: "remsim_server_peer_faults_total", help: "Errors that bankds and clients have told.", kind: counter,
			samples: one(func(s S) uint64 { return s.Faults }),
		},
		{
			name: "remsim_server_events_total", help: "Events that streams were offered.", kind: counter,
			samples: one(func(s S) uint64 { return s.Events }),
		},
		{
			name: "remsim_server_store_commit_duration_seconds", kind: histogram,
			help: "How long the store took to have a transaction safe, or to fail.",
			took: func(s S) count.View { return s.Stored },
		},
		{
			name: "remsim_server_store_errors_total", help: "Transactions that could not be stored.", kind: counter,
			samples: one(func(s S) uint64 { return s.NotStored }),
		},
	}
}

const (
	requestName = "remsim_server_http_request_duration_seconds"
	requestHelp = "How long requests took, but for streams of events; without route for what there is not."
)

// requestLabels are those of requestMetrics.
func requestLabels() []string { return []string{"method", "route", "status"} }

func requestMetrics() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: requestName, Help: requestHelp, Buckets: requestBuckets}, requestLabels())
}

func bankdMetrics() []metric[bankd.Stats] {
	type S = bankd.Stats
	return []metric[S]{
		{
			name: "remsim_bankd_server_connected", help: "1 while the server has accepted the bankd.",
			samples: one(func(s S) int { return yes(s.Server) }),
		},
		{
			name: "remsim_bankd_server_connections_total", help: "How often the server has accepted the bankd; more than once is reconnects.", kind: counter,
			samples: one(func(s S) uint64 { return s.Welcomes }),
		},
		{
			name: "remsim_bankd_readers", help: "PC/SC readers that pcscd knows.",
			samples: one(func(s S) int { return s.Readers }),
		},
		{
			name: "remsim_bankd_slots", help: "Slots of the bank by state.", labels: []string{"state"},
			samples: func(s S, give func(float64, ...string)) { each(s.Slots, give) },
		},
		{
			name: "remsim_bankd_connections", help: "Connections of clients by state.", labels: []string{"state"},
			samples: func(s S, give func(float64, ...string)) { each(s.Connections, give) },
		},
		{
			name: "remsim_bankd_connections_total", help: "Connections that clients have made.", kind: counter,
			samples: one(func(s S) uint64 { return s.Connected }),
		},
		{
			name: "remsim_bankd_tpdu_duration_seconds", kind: histogram,
			help: "How long cards took to answer commands; the count is that of TPDUs.",
			took: func(s S) count.View { return s.Commands },
		},
		{
			name: "remsim_bankd_cards_opened_total", help: "Cards that were powered up.", kind: counter,
			samples: one(func(s S) uint64 { return s.Opened }),
		},
		{
			name: "remsim_bankd_card_resets_total", help: "Resets of cards that clients have asked for.", labels: []string{"kind"}, kind: counter,
			samples: func(s S, give func(float64, ...string)) {
				give(float64(s.ColdResets), "cold")
				give(float64(s.WarmResets), "warm")
			},
		},
		{
			name: "remsim_bankd_card_errors_total", help: "Errors of cards by what was done; no card is none.", labels: []string{"operation"}, kind: counter,
			samples: func(s S, give func(float64, ...string)) {
				give(float64(s.OpenErrors), "open")
				give(float64(s.ResetErrors), "reset")
				give(float64(s.TransmitErrors), "transmit")
			},
		},
		{
			name: "remsim_bankd_card_calls_abandoned_total", help: "Calls to cards that took longer than --card-timeout.", kind: counter,
			samples: one(func(s S) uint64 { return s.Abandoned }),
		},
		{
			name: "remsim_bankd_card_calls_hanging", help: "Abandoned calls to cards that haven't returned.",
			samples: one(func(s S) int { return s.Hanging }),
		},
	}
}

func clientMetrics() []metric[client.Stats] {
	type S = client.Stats
	return []metric[S]{
		{
			name: "remsim_client_slots", help: "Slots that are served by state.", labels: []string{"state"},
			samples: func(s S, give func(float64, ...string)) { each(s.States, give) },
		},
		{
			name: "remsim_client_slots_with_server", help: "Slots that are connected to the server.",
			samples: one(func(s S) int { return s.Servers }),
		},
		{
			name: "remsim_client_server_connections_total", help: "How often the server has accepted a slot; more than once each is reconnects.", kind: counter,
			samples: one(func(s S) uint64 { return s.ServerWelcomes }),
		},
		{
			name: "remsim_client_bankd_connections_total", help: "How often a bankd has accepted a slot.", kind: counter,
			samples: one(func(s S) uint64 { return s.BankdWelcomes }),
		},
		{
			name: "remsim_client_tpdu_duration_seconds", kind: histogram,
			help: "How long commands took until they were answered, network and card included; the count is that of TPDUs.",
			took: func(s S) count.View { return s.Commands },
		},
		{
			name: "remsim_client_tpdu_errors_total", help: "Commands without an answer by the reason.", labels: []string{"reason"}, kind: counter,
			samples: func(s S, give func(float64, ...string)) { each(s.Failed, give) },
		},
		{
			name: "remsim_client_card_resets_total", help: "Resets that modems have asked of cards.", kind: counter,
			samples: one(func(s S) uint64 { return s.Resets }),
		},
	}
}
