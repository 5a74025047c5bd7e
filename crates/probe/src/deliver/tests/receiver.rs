//! In the place of a Core.

use super::*;

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
    /// How many requests came before.
    pub(super) number: usize,
}

impl Request {
    pub(super) fn manifest(&self) -> String {
        if self.path == "/v1/manifests" {
            String::from_utf8(self.body.clone()).unwrap()
        } else {
            Frame::open(&self.body).unwrap().manifest().unwrap().to_owned()
        }
    }

    pub(super) fn claims(&self) -> Claims {
        Manifest::parse(&self.manifest()).unwrap().claims
    }
}

pub(super) enum Reply {
    /// Code, further headers, body.
    Answer(u16, &'static str, String),
    /// The connection breaks without an answer.
    Hang,
}

pub(super) fn sign_receipt(core_key: &[u8], core_certificate: &[u8], receipt: &Receipt) -> String {
    let key = PrivatePkcs8KeyDer::from_pem_slice(core_key).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der()).unwrap();
    let x5c = STANDARD.encode(certificate(core_certificate).der());
    let header = format!(r#"{{"alg":"ES256","typ":"{RECEIPT_TYPE}","x5c":["{x5c}"]}}"#);
    let claims = serde_json::to_string(receipt).unwrap();
    let input = format!(
        "{}.{}",
        to_base64url(header.as_bytes()),
        to_base64url(claims.as_bytes())
    );
    let signature = key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    format!("{input}.{}", to_base64url(signature.as_ref()))
}

pub(super) fn receipt_for(request: &Request) -> Receipt {
    let claims = request.claims();
    Receipt {
        v: 1,
        iss: "core-1".to_owned(),
        probe: claims.iss,
        chain: claims.chain,
        seq: claims.seq,
        manifest: Digest::of(request.manifest().as_bytes()),
        iat: NOW,
        status: if request.path == "/v1/manifests" {
            Status::ManifestOnly
        } else {
            Status::Archived
        },
    }
}

pub(super) fn archived(request: &Request) -> Reply {
    let receipt = sign_receipt(pki!("core.key"), pki!("core.pem"), &receipt_for(request));
    Reply::Answer(
        201,
        "",
        format!(r#"{{"status":"ARCHIVED","receipt":"{receipt}"}}"#),
    )
}

pub(super) fn answer(code: u16, body: &str) -> Reply {
    Reply::Answer(code, "", body.to_owned())
}

pub(super) struct Core {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Core {
    pub(super) fn start(reply: impl Fn(&Request) -> Reply + Send + std::marker::Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::start_on(listener, pki!("core.pem"), pki!("core.key"), reply)
    }

    pub(super) fn start_on(
        listener: TcpListener,
        core_certificate: &[u8],
        core_key: &[u8],
        reply: impl Fn(&Request) -> Reply + Send + std::marker::Sync + 'static,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pki!("ca.pem")).unwrap())
            .unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(core_certificate).unwrap()],
                PrivateKeyDer::from_pem_slice(core_key).unwrap(),
            )
            .unwrap();
        let (config, reply) = (Arc::new(config), Arc::new(reply));
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let number = Arc::new(AtomicUsize::new(0));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&requests));
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let (reply, seen, number) = (Arc::clone(&reply), Arc::clone(&seen), Arc::clone(&number));
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(StreamOwned::new(connection, socket.unwrap()));
                    while let Some(mut request) = read_request(&mut stream) {
                        request.number = number.fetch_add(1, Ordering::SeqCst);
                        seen.lock().unwrap().push(request.clone());
                        let Reply::Answer(code, headers, body) = reply(&request) else {
                            return;
                        };
                        let text = format!(
                            "HTTP/1.1 {code} X\r\nContent-Length: {}\r\n{headers}\r\n{body}",
                            body.len()
                        );
                        if stream.get_mut().write_all(text.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
            requests,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// One request with `Content-Length`; `None` when the connection is over, for whatever reason.
pub(super) fn read_request(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut content_type) = (0, String::new());
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        match header.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(("content-type", value)) => content_type = value.to_owned(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Request {
        path,
        content_type,
        body,
        number: 0,
    })
}
