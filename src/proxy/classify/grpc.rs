//! gRPC: the method is the path, so the head decides; the message is never looked into.
//!
//! Only unary calls can be copied whole. Where a descriptor set tells, streaming methods are not admitted; a listed
//! method of which nothing is known is the operator's word.

use std::collections::BTreeMap;

use http::Method;
use prost_reflect::DescriptorPool;
use prost_reflect::prost_types::method_options::IdempotencyLevel;

use super::headers::Signs;
use super::{Class, ClassifyError, Decided, Head, Reason};

/// Methods that are reads, by path, and why.
#[derive(Clone, Debug)]
pub struct Methods {
    reads: BTreeMap<String, Reason>,
}

impl Methods {
    pub fn new(listed: &[String], descriptor_set: Option<&[u8]>) -> Result<Self, ClassifyError> {
        let mut reads = BTreeMap::new();
        let mut streaming = Vec::new();
        let pool = descriptor_set
            .map(DescriptorPool::decode)
            .transpose()
            .map_err(|source| ClassifyError::DescriptorSet { source: Box::new(source) })?;
        for method in pool.iter().flat_map(DescriptorPool::services).flat_map(|service| {
            // Collected, because the iterator borrows the service.
            service.methods().collect::<Vec<_>>()
        }) {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            let options = method.method_descriptor_proto().options.as_ref();
            if method.is_client_streaming() || method.is_server_streaming() {
                streaming.push(path);
            } else if options.is_some_and(|o| o.idempotency_level() == IdempotencyLevel::NoSideEffects) {
                reads.insert(path, Reason::GrpcNoSideEffects);
            }
        }
        for method in listed {
            let name = method.strip_prefix('/').unwrap_or(method);
            let path = format!("/{name}");
            if !is_method(name) {
                return Err(ClassifyError::GrpcMethod { method: method.clone() });
            }
            if streaming.contains(&path) {
                return Err(ClassifyError::GrpcStreaming { method: method.clone() });
            }
            reads.entry(path).or_insert(Reason::GrpcListed);
        }
        Ok(Self { reads })
    }

    /// Claims every gRPC call once any method was opted in.
    pub fn claim(&self, head: &Head<'_>, signs: &Signs<'_>) -> Option<Decided> {
        if self.reads.is_empty() || *head.method != Method::POST || !signs.is_grpc() {
            return None;
        }
        let read = self.reads.get(head.uri.path()).filter(|_| head.uri.query().is_none());
        Some(read.map_or((Class::Write, Reason::GrpcUnlisted), |&reason| (Class::Read, reason)))
    }
}

/// `package.Service/Method`.
fn is_method(name: &str) -> bool {
    let identifier = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    };
    name.split_once('/')
        .is_some_and(|(service, method)| identifier(service) && identifier(method) && !method.contains('.'))
}

#[cfg(test)]
mod tests {
    use prost_reflect::prost::Message;
    use prost_reflect::prost_types::{
        DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, MethodOptions,
        ServiceDescriptorProto,
    };

    use super::*;

    fn method(name: &str, level: IdempotencyLevel, streaming: (bool, bool)) -> MethodDescriptorProto {
        MethodDescriptorProto {
            name: Some(name.into()),
            input_type: Some(".p.M".into()),
            output_type: Some(".p.M".into()),
            options: Some(MethodOptions {
                idempotency_level: Some(level.into()),
                ..MethodOptions::default()
            }),
            client_streaming: Some(streaming.0),
            server_streaming: Some(streaming.1),
        }
    }

    fn set() -> Vec<u8> {
        let service = ServiceDescriptorProto {
            name: Some("S".into()),
            method: vec![
                method("Get", IdempotencyLevel::NoSideEffects, (false, false)),
                method("Put", IdempotencyLevel::Idempotent, (false, false)),
                method("Do", IdempotencyLevel::IdempotencyUnknown, (false, false)),
                method("Watch", IdempotencyLevel::NoSideEffects, (false, true)),
                method("Feed", IdempotencyLevel::NoSideEffects, (true, false)),
            ],
            ..ServiceDescriptorProto::default()
        };
        let file = FileDescriptorProto {
            name: Some("p.proto".into()),
            package: Some("p".into()),
            message_type: vec![DescriptorProto { name: Some("M".into()), ..DescriptorProto::default() }],
            service: vec![service],
            ..FileDescriptorProto::default()
        };
        FileDescriptorSet { file: vec![file] }.encode_to_vec()
    }

    #[test]
    fn only_unary_methods_without_side_effects_are_taken_from_the_set() {
        let methods =
            Methods::new(&["p.S/Do".into(), "/q.T/Get".into(), "p.S/Get".into()], Some(&set())).unwrap();
        let expected = [
            ("/p.S/Do".to_owned(), Reason::GrpcListed),
            ("/p.S/Get".into(), Reason::GrpcNoSideEffects),
            ("/q.T/Get".into(), Reason::GrpcListed),
        ];
        assert_eq!(methods.reads.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn mistakes_are_errors() {
        let error = |method: &str, set: Option<&[u8]>| Methods::new(&[method.into()], set).unwrap_err();
        for method in ["", "p.S", "p.S/", "/Get", "p.S/Get/x", "p.S/*", "p S/Get"] {
            assert!(matches!(error(method, None), ClassifyError::GrpcMethod { .. }), "{method}");
        }
        assert!(matches!(error("p.S/Watch", Some(&set())), ClassifyError::GrpcStreaming { .. }));
        assert!(matches!(error("p.S/Get", Some(b"no set")), ClassifyError::DescriptorSet { .. }));
    }
}
