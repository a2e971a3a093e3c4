# The image is one static program from scratch, run by a user that owns nothing but /data.
#
#   docker build -t keyward .        builds the program too; needs a network
#   scripts/image                    takes a program built on this machine; needs none
#
# The program resolves names itself, so that a static build needs no plug-ins of glibc's.

FROM scratch AS base
ENV KEYWARD_DATA_DIR=/data \
    KEYWARD_CLIENT_LISTEN=0.0.0.0:7420 \
    KEYWARD_PEER_LISTEN=0.0.0.0:7421
EXPOSE 7420 7421
USER 65532:65532
# Both ports can be reached from outside of the container, so `serve` asks for certificates (docs/tls.md), or for
# KEYWARD_INSECURE=yes. With certificates for clients this health check always fails: give the container one of its own,
# such as `/keyward health --endpoints https://127.0.0.1:7420` with KEYWARD_CACERT (docs/tls.md#health-checks).
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/keyward", "health", "--endpoints", "http://127.0.0.1:7420"]
ENTRYPOINT ["/keyward"]
CMD ["serve"]

# What scripts/image makes. It stands before the stage that needs a network, so that a builder
# which runs the stages in order never comes to that one.
FROM base AS prebuilt
COPY dist/root/keyward /keyward
# A new named volume takes the owner of the folder that it covers.
COPY --chown=65532:65532 dist/root/data /data
VOLUME /data

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# As scripts/image does: RUSTFLAGS would take the place of what .cargo/config.toml says.
RUN cargo rustc --release --locked --package keyward --bin keyward -- -C target-feature=+crt-static \
    && mkdir -p /root-of-image/data \
    && strip --strip-debug -o /root-of-image/keyward target/release/keyward

FROM base
COPY --from=build /root-of-image/keyward /keyward
COPY --from=build --chown=65532:65532 /root-of-image/data /data
VOLUME /data
