// A module for Envoy that does nothing: what every module costs. Compiled by the row `module`; never shipped.

#define HOOK(name) \
  int envoy_dynamic_module_on_http_filter_##name(void) { return 0; }

static int something;

const char *envoy_dynamic_module_on_program_init(void) { return "v0.2.0"; }
const void *envoy_dynamic_module_on_http_filter_config_new(void) { return &something; }
const void *envoy_dynamic_module_on_http_filter_per_route_config_new(void) { return &something; }
const void *envoy_dynamic_module_on_http_filter_new(void) { return &something; }
void envoy_dynamic_module_on_http_filter_per_route_config_destroy(void) {}

HOOK(config_destroy)
HOOK(destroy)
HOOK(request_headers)
HOOK(request_body)
HOOK(request_trailers)
HOOK(response_headers)
HOOK(response_body)
HOOK(response_trailers)
HOOK(stream_complete)
HOOK(scheduled)
HOOK(http_callout_done)
HOOK(http_stream_headers)
HOOK(http_stream_data)
HOOK(http_stream_trailers)
HOOK(http_stream_complete)
HOOK(http_stream_reset)
HOOK(downstream_above_write_buffer_high_watermark)
HOOK(downstream_below_write_buffer_low_watermark)
HOOK(local_reply)
HOOK(config_scheduled)
HOOK(config_http_callout_done)
HOOK(config_http_stream_headers)
HOOK(config_http_stream_data)
HOOK(config_http_stream_trailers)
HOOK(config_http_stream_complete)
HOOK(config_http_stream_reset)
