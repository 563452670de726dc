// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// protocol is how requests travel; "" if there are none.
type protocol string

const (
	overGRPC protocol = "grpc"
	overHTTP protocol = "http/protobuf"
)

// defaultQueue is the SDK's number of log records that wait for delivery.
const defaultQueue = 2048

// environment is what the OTEL_* variables ask for, but for what the SDK reads from them itself: addresses, headers,
// certificates, timeouts, intervals, the buckets of histograms and the resource.
type environment struct {
	metrics protocol
	logs    protocol
	queue   int  // log records that may wait for delivery
	delta   bool // a temporality other than cumulative is preferred
}

// readEnvironment fails on values that make no sense. The SDK would go on with others, and say so on stderr at best.
func readEnvironment() (asked environment, err error) {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return environment{}, nil
	}
	if asked.metrics, err = askedProtocol("METRICS"); err != nil {
		return environment{}, err
	}
	if asked.logs, err = askedProtocol("LOGS"); err != nil {
		return environment{}, err
	}
	if asked == (environment{}) {
		return asked, nil
	}
	if err := checkVariables(); err != nil {
		return environment{}, err
	}
	asked.queue = defaultQueue
	if text := os.Getenv("OTEL_BLRP_MAX_QUEUE_SIZE"); text != "" {
		asked.queue, _ = strconv.Atoi(text) // checked
	}
	preferred := strings.ToLower(os.Getenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"))
	asked.delta = preferred != "" && preferred != "cumulative"
	return asked, nil
}

// askedProtocol says how a signal is to be sent. Without a word about an exporter, an address is what asks for one.
func askedProtocol(signal string) (protocol, error) {
	selector := "OTEL_" + signal + "_EXPORTER"
	switch exporter := os.Getenv(selector); exporter {
	case "otlp":
	case "none":
		return "", nil
	case "":
		if _, address := variable(signal, "ENDPOINT"); address == "" {
			return "", nil
		}
	default:
		return "", fmt.Errorf("read %s: %q is neither otlp nor none", selector, exporter)
	}
	name, value := variable(signal, "PROTOCOL")
	switch p := protocol(value); p {
	case "":
		return overHTTP, nil
	case overGRPC, overHTTP:
		return p, nil
	}
	return "", fmt.Errorf("read %s: %q is neither %s nor %s", name, value, overGRPC, overHTTP)
}

// variable is a signal's own one if it is set, else the one for all signals.
func variable(signal, setting string) (name, value string) {
	name = "OTEL_EXPORTER_OTLP_" + signal + "_" + setting
	if value := os.Getenv(name); value != "" {
		return name, value
	}
	name = "OTEL_EXPORTER_OTLP_" + setting
	return name, os.Getenv(name)
}

func checkVariables() error {
	for _, signal := range []string{"", "METRICS_", "LOGS_"} {
		prefix := "OTEL_EXPORTER_OTLP_" + signal
		for _, v := range []struct {
			setting string
			check   func(string) error
		}{
			{"ENDPOINT", checkAddress},
			{"TIMEOUT", checkNumber},
			{"HEADERS", checkHeaders},
			{"COMPRESSION", oneOf("gzip", "none")},
			{"INSECURE", oneOf("true", "false")},
			{"CERTIFICATE", checkAuthorities},
		} {
			if err := check(prefix+v.setting, v.check); err != nil {
				return err
			}
		}
		if err := check(prefix+"CLIENT_CERTIFICATE", func(certificate string) error {
			_, err := tls.LoadX509KeyPair(certificate, os.Getenv(prefix+"CLIENT_KEY"))
			return err
		}); err != nil {
			return err
		}
	}
	err := check("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
		oneOf("explicit_bucket_histogram", "base2_exponential_bucket_histogram"))
	if err != nil {
		return err
	}
	for _, name := range []string{
		"OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT",
		"OTEL_BLRP_MAX_QUEUE_SIZE", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "OTEL_BLRP_SCHEDULE_DELAY", "OTEL_BLRP_EXPORT_TIMEOUT",
	} {
		if err := check(name, checkNumber); err != nil {
			return err
		}
	}
	return nil
}

// check leaves out what is not set, or set to nothing, which is the same.
func check(name string, valid func(string) error) error {
	value := os.Getenv(name)
	if value == "" {
		return nil
	}
	if err := valid(value); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

func checkAddress(text string) error {
	address, err := url.Parse(text)
	if err != nil || address.Scheme == "" || address.Host == "" && address.Path == "" {
		return fmt.Errorf("%q is no address like http://collector:4318", text)
	}
	return nil
}

func checkNumber(text string) error {
	if n, err := strconv.Atoi(text); err != nil || n <= 0 {
		return fmt.Errorf("%q is no number above 0", text)
	}
	return nil
}

func oneOf(values ...string) func(string) error {
	return func(text string) error {
		if !slices.Contains(values, strings.ToLower(text)) {
			return fmt.Errorf("%q is neither %s", text, strings.Join(values, " nor "))
		}
		return nil
	}
}

// checkHeaders does not show what it read: it may be a password.
func checkHeaders(text string) error {
	for pair := range strings.SplitSeq(text, ",") {
		name, value, found := strings.Cut(pair, "=")
		if _, err := url.PathUnescape(value); err != nil || !found || strings.TrimSpace(name) == "" {
			return errors.New("it is no list like name=value,name=value with percent-encoded values")
		}
	}
	return nil
}

func checkAuthorities(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return nil
}

// Where collectors listen on this host: the standard says so, but the SDK would use TLS.
const (
	localGRPC = "http://localhost:4317"
	localHTTP = "http://localhost:4318"
)

func openMetricExporter(ctx context.Context, over protocol) (sdkmetric.Exporter, error) {
	_, address := variable("METRICS", "ENDPOINT")
	if over == overGRPC {
		var options []otlpmetricgrpc.Option
		if address == "" {
			options = append(options, otlpmetricgrpc.WithEndpointURL(localGRPC))
		}
		return otlpmetricgrpc.New(ctx, options...)
	}
	var options []otlpmetrichttp.Option
	if address == "" {
		options = append(options, otlpmetrichttp.WithEndpointURL(localHTTP+"/v1/metrics"))
	}
	return otlpmetrichttp.New(ctx, options...)
}

func openLogExporter(ctx context.Context, over protocol) (sdklog.Exporter, error) {
	_, address := variable("LOGS", "ENDPOINT")
	if over == overGRPC {
		var options []otlploggrpc.Option
		if address == "" {
			options = append(options, otlploggrpc.WithEndpointURL(localGRPC))
		}
		return otlploggrpc.New(ctx, options...)
	}
	var options []otlploghttp.Option
	if address == "" {
		options = append(options, otlploghttp.WithEndpointURL(localHTTP+"/v1/logs"))
	}
	return otlploghttp.New(ctx, options...)
}
