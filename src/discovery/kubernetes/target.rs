//! `k8s://namespace/service:port`.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Kubernetes, KubernetesService, ServicePort,
    name::{RULE, is_label},
};
use crate::{
    discovery::{part::Part, target::uri::Uri},
    error::{TargetError, TargetErrorReason},
};

/// The clusters of the targets that are parsed together. Clones share them.
#[derive(Clone, Default)]
pub(in crate::discovery) struct Clusters(Arc<Mutex<HashMap<Configuration, Kubernetes>>>);

/// The path of a kubeconfig, and the context in it, as far as a target names them.
type Configuration = (Option<PathBuf>, Option<String>);

// === impl Clusters ===

impl Clusters {
    /// The source that a target of this scheme names.
    pub(in crate::discovery) fn source(
        &self,
        uri: &mut Uri<'_>,
    ) -> Result<KubernetesService, TargetError> {
        let kubeconfig = uri.take("kubeconfig").map(|path| PathBuf::from(path.text));
        let context = uri.take("context").map(|context| context.text.to_owned());
        source(uri, self.cluster((kubeconfig, context)))
    }

    fn cluster(&self, configuration: Configuration) -> Kubernetes {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster =
            known.entry(configuration).or_insert_with_key(|configuration| match configuration {
                (None, None) => Kubernetes::infer(),
                (path, context) => Kubernetes::kubeconfig(path.clone(), context.as_deref()),
            });
        cluster.clone()
    }
}

fn source(uri: &mut Uri<'_>, cluster: Kubernetes) -> Result<KubernetesService, TargetError> {
    let cluster = match uri.take("own_service") {
        None => cluster,
        Some(own) => {
            let parts = own.split_once('/');
            let (namespace, service) = parts.ok_or_else(|| {
                uri.wrong(own, TargetErrorReason::Expected("Service: `namespace/service`"))
            })?;
            cluster.own_service(label(uri, namespace)?, label(uri, service)?)
        }
    };
    let body = uri.body();
    let parts = body.split_once('/');
    let (namespace, rest) = parts.ok_or_else(|| {
        uri.wrong(body, TargetErrorReason::Expected("Service: `namespace/service:port`"))
    })?;
    let (service, port) = match rest.split_once(':') {
        Some((service, port)) => (service, Some(port)),
        None => (rest, None),
    };
    let service = cluster.service(label(uri, namespace)?, label(uri, service)?);
    Ok(match port {
        None => service,
        Some(port) if port.text.is_empty() => {
            return Err(uri.wrong(rest, TargetErrorReason::NoPort));
        }
        // A name may begin with a digit, as `8080-tcp` does. One of digits alone is as good as a number.
        Some(port) if port.text.bytes().all(|byte| byte.is_ascii_digit()) => {
            service.port(ServicePort::Number(uri.port(port)?))
        }
        Some(port) => service.port(ServicePort::Name(label(uri, port)?.into())),
    })
}

fn label<'a>(uri: &Uri<'_>, part: Part<'a>) -> Result<&'a str, TargetError> {
    if is_label(part.text) {
        return Ok(part.text);
    }
    Err(uri.wrong(part, TargetErrorReason::Name(RULE.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        discovery::{Discover, OnEmpty, Target},
        error::{BuildError, TargetErrorReason as Reason},
    };

    #[test]
    fn a_target_names_a_service_and_a_port() {
        for text in [
            "k8s://shop/cart",
            "k8s://shop/cart:grpc",
            "k8s://shop/cart:8080",
            "k8s://shop/cart:8080-tcp",
            "k8s://shop/cart:9p",
            "K8S://shop-2/cart:http-8080?context=kind&on_empty=30s",
            "k8s://shop/cart:grpc?own_service=web/frontend",
            "k8s://shop/cart:grpc?kubeconfig=/etc/kube/config",
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(&*Discover::target(&target), text);
        }
        assert_eq!(Target::parse("k8s://shop/cart:grpc").unwrap().on_empty(), OnEmpty::Clear);
        for (text, port) in [
            ("k8s://shop/cart:8080-tcp", ServicePort::from("8080-tcp")),
            ("k8s://shop/cart:8080", ServicePort::from(8080)),
            ("k8s://shop/cart", ServicePort::Only),
        ] {
            let mut uri = Uri::parse(text).unwrap();
            uri.read_options().unwrap();
            assert_eq!(Clusters::default().source(&mut uri).unwrap().port, port, "{text}");
        }
    }

    #[test]
    fn what_is_no_service_is_told_with_its_place() {
        let long = format!("k8s://shop/{}", "x".repeat(64));
        for (text, position, part) in [
            ("k8s://", 6, ""),
            ("k8s://cart:grpc", 6, "cart:grpc"),
            ("k8s://cart.shop.svc.cluster.local", 6, "cart.shop.svc.cluster.local"),
            ("k8s:///cart", 6, ""),
            ("k8s://shop/", 11, ""),
            ("k8s://shop/Cart", 11, "Cart"),
            ("k8s://shop/-cart", 11, "-cart"),
            ("k8s://shop/cart/x:80", 11, "cart/x"),
            ("k8s://shop/cart:", 11, "cart:"),
            ("k8s://shop/cart:0", 16, "0"),
            ("k8s://shop/cart:65536", 16, "65536"),
            ("k8s://shop/cart:80:81", 16, "80:81"),
            ("k8s://shop/cart:_http", 16, "_http"),
            ("k8s://shop/cart:8080-", 16, "8080-"),
            ("k8s://shop/cart:+80", 16, "+80"),
            ("k8s://shop/cart?port=80", 16, "port"),
            ("k8s://shop/cart?own_service=web", 28, "web"),
            ("k8s://shop/cart?own_service=web/Front", 32, "Front"),
            (&*long, 11, &"x".repeat(64)),
        ] {
            let error = Target::parse(text).unwrap_err();
            let BuildError::InTarget(error) = error else { panic!("{text}: {error}") };
            assert_eq!((error.position, &*error.part), (position, part), "{error}");
        }
        let Err(BuildError::InTarget(error)) = Target::parse("k8s://shop/cart?port=80") else {
            panic!("there is no such option")
        };
        assert!(matches!(&error.reason, Reason::Option(known) if known.contains("`kubeconfig`")));
    }
}
